import Glibc
import MWKeystore
import MWPKI
import Testing

/// A store below `certs/`, and what opens it.
struct BundledStore: CustomTestStringConvertible, Sendable {
    /// Relative to `certs/`.
    let path: String
    let password: String
    var keyPassword: String?
    var acceptsUnauthenticated = false

    var testDescription: String { path }

    func bytes() throws -> [UInt8] {
        try PrivateFile.read(Self.folder + path, permissions: .any).bytes
    }

    func open(_ bytes: [UInt8]? = nil) throws -> Keystore {
        try Keystore(
            bytes: bytes ?? self.bytes(), source: path, passphrase: Passphrase(password), keyPassphrase: keyPassword.map { Passphrase($0) },
            acceptsUnauthenticated: acceptsUnauthenticated)
    }

    static let folder: String = {
        // …/Tests/MWKeystoreTests/BundledStores.swift
        let parts = #filePath.split(separator: "/", omittingEmptySubsequences: false)
        return parts.dropLast(3).joined(separator: "/") + "/certs/"
    }()

    /// The documented layout: file, alias of the key, password.
    static let documented = [
        ("server.keystore", "WS-Server-Keystore-16"), ("server.truststore", "WS-Server-Truststore-16"),
        ("client.keystore", "WS-Client-Keystore-16"), ("client.truststore", "WS-Client-Truststore-16"),
    ]

    static func layout(_ folder: String) -> [BundledStore] {
        documented.map { BundledStore(path: "\(folder)/\($0.0)", password: $0.1) }
    }

    static let pkcs12 = ["pkcs12-rsa", "pkcs12-ec", "pkcs12-ec-san"].flatMap(layout)
    static let jks = ["jks-rsa", "jks-ec"].flatMap(layout)
    /// DSA-1024 and SHA-1: readable, not usable.
    static let obsolete = layout("jks-dsa-2016")

    static let legacy = BundledStore(path: "fixtures/legacy.p12", password: "WS-Server-Keystore-16")
    static let several = BundledStore(path: "fixtures/several.p12", password: "several-entries")
    static let chainPKCS12 = BundledStore(path: "fixtures/chain.p12", password: "chain-entries")
    static let chainJKS = BundledStore(path: "fixtures/chain.jks", password: "chain-entries")
    static let ownKeyPassphrase = BundledStore(
        path: "fixtures/own-key-passphrase.jks", password: "store-passphrase", keyPassword: "key-passphrase")
    static let macless = BundledStore(
        path: "fixtures/macless-truststore.p12", password: "", acceptsUnauthenticated: true)
    static let openssl = BundledStore(path: "fixtures/openssl-truststore.p12", password: "openssl-entries")
    static let unicodePKCS12 = BundledStore(path: "fixtures/unicode.p12", password: "unicode-entries")
    static let unicodeJKS = BundledStore(path: "fixtures/unicode.jks", password: "pässphrase-€")
    static let weak = ["dsa-2048.p12", "rsa-1024.p12", "rsa-sha1.p12"].map {
        BundledStore(path: "fixtures/\($0)", password: "weak-entries")
    }

    static let fixtures =
        [legacy, several, chainPKCS12, chainJKS, ownKeyPassphrase, macless, openssl, unicodePKCS12, unicodeJKS] + weak
    static let readable = pkcs12 + jks + obsolete + fixtures
}

/// What a store holds, in a form that can be compared: one line an entry, sorted.
func contents(_ store: Keystore) -> [String] {
    store.entries.map { entry in
        let kind = entry.isPrivateKey ? "key" : "trusted"
        return "\(entry.alias.lowercased()) \(kind) \(entry.certificates.map(\.sha256.hex).joined(separator: " "))"
    }.sorted()
}
