// MWLevelDB
