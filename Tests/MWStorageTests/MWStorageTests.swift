// Tests of MWStorage
