// Tests of MWServer
