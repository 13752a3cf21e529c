import Foundation
import MWKeystore
import MWPKI
import Testing

/// `BundledTestKeys` names exactly the keys that are published in certs/.
struct BundledKeysTests {
    @Test("the pins of all certificates in certs/ are the list, no more and no fewer")
    func complete() throws {
        #expect(BundledTestKeys.publicKeyPins.count == BundledTestKeys.hexadecimal.count)
        var found: Set<PublicKeyPin> = []
        for store in BundledStore.readable {
            for entry in try store.open().entries { found.formUnion(entry.certificates.map(\.publicKeyPin)) }
        }
        for file in try files() where file.hasSuffix(".crt") || file.hasSuffix(".pem") {
            let bytes = try PrivateFile.read(BundledStore.folder + file, permissions: .any).bytes
            found.formUnion(try Certificate.list(pem: bytes, source: file).map(\.publicKeyPin))
        }
        #expect(found == BundledTestKeys.publicKeyPins)
    }

    @Test("every file in certs/ is known to these tests")
    func known() throws {
        let stores = Set(BundledStore.readable.map(\.path) + ["fixtures/server.jceks", "README.md", "regenerate", "list-keys"])
        #expect(try files().filter { !stores.contains($0) && !$0.hasPrefix("pem-") } == [])
    }

    private func files() throws -> [String] {
        let all = try #require(FileManager.default.enumerator(atPath: BundledStore.folder)).compactMap { $0 as? String }
        return all.filter { file in
            var isDirectory: ObjCBool = false
            return unsafe FileManager.default.fileExists(atPath: BundledStore.folder + file, isDirectory: &isDirectory)
                && !isDirectory.boolValue
        }
    }
}
