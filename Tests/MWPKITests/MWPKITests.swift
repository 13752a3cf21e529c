// Tests of MWPKI
