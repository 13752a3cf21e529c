// Tests of MWLevelDB
