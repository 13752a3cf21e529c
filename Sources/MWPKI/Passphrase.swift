internal import COpenSSL
internal import Glibc

/// What opens a key or keystore. Comes from a file, a descriptor or the environment; never from the command line, which
/// everybody on the machine can read.
package struct Passphrase: Sendable, CustomStringConvertible {
    package let secret: SecretBytes

    /// Longer than anyone types or generates; a file of more is the wrong file.
    package static let maximumBytes = 1024

    /// For tests and documented passwords.
    package init(_ text: String) { secret = SecretBytes(Array(text.utf8)) }

    package init(secret: SecretBytes) { self.secret = secret }

    /// The only line of a file that is only its owner's (mode 0600 or 0400).
    package static func file(_ path: String) throws -> Passphrase {
        try Passphrase(line: PrivateFile.read(path, maximumBytes: maximumBytes + 2, permissions: .ownerOnly), source: path)
    }

    /// The only line read from an open descriptor up to its end. The descriptor is not closed.
    package static func descriptor(_ descriptor: Int32) throws -> Passphrase {
        let source = "file descriptor \(descriptor)"
        return try Passphrase(line: PrivateFile.readAll(descriptor, maximumBytes: maximumBytes + 2, subject: source), source: source)
    }

    /// The value of an environment variable, which is overwritten and taken out of the environment: /proc shows it, and children get it.
    ///
    /// Call it while the process has one thread.
    package static func takingEnvironment(_ name: String) throws -> Passphrase {
        let passphrase = try environment(name)
        if let value = unsafe getenv(name) { unsafe OPENSSL_cleanse(value, strlen(value)) }
        unsafe unsetenv(name)
        return passphrase
    }

    /// The value of an environment variable.
    package static func environment(_ name: String) throws -> Passphrase {
        let source = "environment variable \(name)"
        guard let value = unsafe getenv(name) else {
            throw PKIError(.passphraseMissing, subject: source, "it is not set", remedy: "set it, or name a passphrase file")
        }
        let bytes = unsafe UnsafeRawBufferPointer(start: value, count: strlen(value))
        return try Passphrase(line: unsafe SecretBytes(copying: bytes), source: source)
    }

    /// Checks that it is one line, and takes its end off.
    private init(line: SecretBytes, source: String) throws {
        let secret = try unsafe line.withUnsafeBytes { bytes -> SecretBytes in
            var text = unsafe bytes[...]
            if unsafe text.last == 0x0A { unsafe text.removeLast() }
            if unsafe text.last == 0x0D { unsafe text.removeLast() }
            guard unsafe !text.isEmpty else {
                throw PKIError(.passphraseMissing, subject: source, "it is empty", remedy: "put the passphrase into it, on one line")
            }
            guard unsafe text.count <= Passphrase.maximumBytes else {
                throw PKIError(
                    .passphraseMalformed, subject: source, "the passphrase is too long",
                    expected: "\(Passphrase.maximumBytes) bytes at most")
            }
            guard unsafe !text.contains(where: { $0 == 0x0A || $0 == 0x0D || $0 == 0 }) else {
                throw PKIError(
                    .passphraseMalformed, subject: source, "more than one line, or a NUL", expected: "the passphrase on one line")
            }
            return unsafe SecretBytes(copying: UnsafeRawBufferPointer(rebasing: text))
        }
        self.init(secret: secret)
    }

    package func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try unsafe secret.withUnsafeBytes(body)
    }

    package var description: String { "(passphrase)" }
}
