internal import Foundation
package import MWPKI

/// A directory (mode 0700) that is removed with all that is in it when the last reference is gone.
package final class TemporaryDirectory: Sendable {
    package let path: String

    package init() throws {
        let url = FileManager.default.temporaryDirectory.appendingPathComponent("mwstorage-test-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        path = url.path
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    package func file(_ name: String) -> String { path + "/" + name }

    /// Writes a file and returns its path.
    @discardableResult
    package func write(_ name: String, _ bytes: [UInt8], mode: UInt32 = 0o600) throws -> String {
        try PrivateFile.write(bytes, to: file(name), mode: mode)
        return file(name)
    }

    @discardableResult
    package func write(_ name: String, _ text: String, mode: UInt32 = 0o600) throws -> String {
        try write(name, Array(text.utf8), mode: mode)
    }
}

extension TLSMaterial {
    /// Writes `PREFIX.chain.pem`, `PREFIX.key.pem` (0600), `PREFIX.trust.pem` and, where there are any, `PREFIX.crl.pem`, and
    /// returns the source that reads them.
    package func writePEM(to directory: TemporaryDirectory, prefix: String) throws -> TLSMaterialSource {
        let chain = identity.chain.map(\.pem).joined()
        let trust = trustStore.anchors.map(\.certificate.pem).joined()
        let lists = trustStore.revocationLists.map(\.pem).joined()
        return .pem(
            certificateChainFile: try directory.write("\(prefix).chain.pem", chain, mode: 0o644),
            privateKeyFile: try directory.write("\(prefix).key.pem", identity.key.pem().bytes),
            trustFile: try directory.write("\(prefix).trust.pem", trust, mode: 0o644),
            revocationListFiles: lists.isEmpty ? [] : [try directory.write("\(prefix).crl.pem", lists, mode: 0o644)])
    }
}
