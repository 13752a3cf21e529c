// MWStorage
