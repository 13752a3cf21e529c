import COpenSSL
import Foundation
import MWPKI
import TestCertificates
import Testing

/// Each runs in a process of its own, as a library starts only once.
@Suite struct OpenSSLStartTests {
    @Test func `An openssl.cnf changes nothing`() async {
        await #expect(processExitsWith: .success) {
            let directory = try Configuration.install()
            OpenSSL.prepare()
            // What loads a configuration by default, later.
            _ = try PrivateKey.generate()
            #expect(!Configuration.isLoaded)
            withExtendedLifetime(directory) {}
        }
    }

    // So that the test above can fail.
    @Test func `The same openssl.cnf is loaded by who does not refuse it`() async {
        await #expect(processExitsWith: .success) {
            let directory = try Configuration.install()
            let started = OPENSSL_init_crypto(UInt64(OPENSSL_INIT_LOAD_CONFIG), nil)
            #expect(started == 1 && Configuration.isLoaded)
            withExtendedLifetime(directory) {}
        }
    }
}

/// An openssl.cnf that adds an object identifier.
private enum Configuration {
    static func install() throws -> TemporaryDirectory {
        let directory = try TemporaryDirectory()
        let text = "openssl_conf = start\n[start]\noid_section = identifiers\n[identifiers]\nmwTestIdentifier = 1.3.6.1.4.1.99999.77\n"
        // Not with `PrivateFile`, which draws random bytes: that would start the library.
        try text.write(toFile: directory.file("openssl.cnf"), atomically: false, encoding: .utf8)
        _ = unsafe setenv("OPENSSL_CONF", directory.file("openssl.cnf"), 1)
        return directory
    }

    static var isLoaded: Bool { unsafe OBJ_txt2nid("mwTestIdentifier") != NID_undef }
}
