// MWProtocol
