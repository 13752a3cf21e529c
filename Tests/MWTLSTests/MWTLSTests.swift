// Tests of MWTLS
