/// How much of a keystore is believed before its author has proved to know the passphrase, and after.
package struct KeystoreLimits: Sendable {
    /// Bytes of a file. The largest truststores in use, those of operating systems, are below 1 MiB.
    package var maximumFileBytes = 16 << 20

    /// Entries of a store: 10 times what an operating system's truststore has.
    package var maximumEntries = 4096

    /// Certificates in one key entry's chain. Chains in use have 2 to 4.
    package var maximumChainCertificates = 32

    /// Iterations of one key derivation. What Java reads at most; about 2 s of CPU.
    package var maximumIterations = 5_000_000

    /// Iterations of all key derivations of one file together: each entry may ask for its own.
    package var maximumTotalIterations = 10_000_000

    /// Bytes of a salt. keytool and openssl write 8 to 20.
    package var maximumSaltBytes = 1024

    /// Safe bags inside safe bags. Nobody writes any.
    package var maximumNesting = 4

    /// Characters of an alias, in UTF-8 bytes.
    package var maximumAliasBytes = 1024

    package init() {}
}
