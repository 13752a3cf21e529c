// Tests of MWRocksDB
