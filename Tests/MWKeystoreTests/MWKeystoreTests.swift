// Tests of MWKeystore
