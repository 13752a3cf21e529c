// MWRocksDB
