// MWKeystore
