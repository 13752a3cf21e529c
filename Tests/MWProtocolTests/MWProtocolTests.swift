// Tests of MWProtocol
