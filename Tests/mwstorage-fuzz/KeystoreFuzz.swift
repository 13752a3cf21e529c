import COpenSSL
import MWKeystore
import MWPKI

/// Any file gives entries or a typed error.
///
/// Both formats check their integrity before anything is parsed, which would hide the parsers from the fuzzer. So an input is also
/// tried where that check holds: a JKS body gets its digest, and PKCS#12 is read without MAC.
enum KeystoreFuzz {
    /// That of the seeds in Tests/fixtures/corpus.
    private static let passphrase = "fuzz"
    private static let jksPassphrase = "fuzzfuzz"

    static func runJKS(_ input: [UInt8]) {
        read(input, jksPassphrase)
        read(input + jksDigest(input), jksPassphrase)
    }

    static func runPKCS12(_ input: [UInt8]) { read(input, passphrase) }

    private static func read(_ bytes: [UInt8], _ passphrase: String) {
        // Key derivations would take all the time.
        var limits = KeystoreLimits()
        limits.maximumIterations = 64
        limits.maximumTotalIterations = 256
        do {
            let store = try Keystore(
                bytes: bytes, source: "input", passphrase: Passphrase(passphrase), acceptsUnauthenticated: true, limits: limits)
            _ = try? store.identity()
            _ = try? store.trustStore()
        } catch is KeystoreError {
        } catch is PKIError {
        } catch {
            preconditionFailure("an error that is not of the module: \(error)")
        }
    }

    /// SHA-1 of the passphrase in UTF-16BE, "Mighty Aphrodite" and the body.
    private static func jksDigest(_ body: [UInt8]) -> [UInt8] {
        let digested = jksPassphrase.utf16.flatMap { [UInt8($0 >> 8), UInt8($0 & 0xFF)] } + Array("Mighty Aphrodite".utf8) + body
        var digest = [UInt8](repeating: 0, count: 20)
        unsafe EVP_Digest(digested, digested.count, &digest, nil, EVP_sha1(), nil)
        return digest
    }
}
