// MWClient
