// MWServer
