// Tests of MWClient
