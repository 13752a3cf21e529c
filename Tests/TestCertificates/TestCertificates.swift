// TestCertificates
