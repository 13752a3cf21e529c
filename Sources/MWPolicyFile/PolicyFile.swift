internal import MWPKI
public import MWServer

extension AccessPolicySource {
    /// The access policy in a file: YAML, of which JSON is a part, at most 1 MiB. What it may hold is at the top of `AccessPolicyReader`.
    ///
    /// A load throws `AccessPolicyError` with everything that is wrong in it, each with its place; and a described error when the file cannot be
    /// read, or when others than its owner may change it (it must be mode 0644 or stricter, and the process's own or root's).
    public static func file(_ path: String) -> AccessPolicySource {
        AccessPolicySource(paths: [path]) { try PolicyFile.policy(at: path) }
    }
}

/// The access policy as a file.
package enum PolicyFile {
    /// Some ten thousand rules; a file that is larger is not a policy.
    package static let maximumBytes = 1 << 20

    /// Throws `AccessPolicyError`, or `PKIError` for a file that cannot be read or that others may change.
    package static func policy(at path: String) throws -> AccessPolicy {
        let bytes = try PrivateFile.read(path, maximumBytes: self.maximumBytes, permissions: .anyoneMayRead).bytes
        return try self.policy(bytes, source: path)
    }

    /// - Parameter source: The file's name, for messages.
    package static func policy(_ bytes: [UInt8], source: String) throws(AccessPolicyError) -> AccessPolicy {
        guard bytes.count <= self.maximumBytes else {
            let fault = AccessPolicyError.Fault(
                nil, "it has more than \(self.maximumBytes) bytes", remedy: "check that it is the policy's file")
            throw AccessPolicyError(source: source, faults: [fault])
        }
        return try AccessPolicyReader.policy(YAMLReader(source: source).node(bytes), source: source)
    }
}
