internal import Glibc

/// Paths that name one file, or a directory of files of which each counts.
package enum MaterialPath {
    /// What a directory's certificates are called.
    package static let certificateSuffixes = [".pem", ".crt", ".cer"]
    /// What a directory's revocation lists are called.
    package static let revocationListSuffixes = [".pem", ".crl", ".der"]

    /// The files that `path` stands for: itself, or those in the directory whose names end so, in the order of their names.
    ///
    /// Hidden ones are left out: a Kubernetes volume keeps its versions in them. A directory without any is an error, as who named it
    /// meant something by it.
    package static func files(of path: String, suffixes: [String]) throws -> [String] {
        guard let stream = unsafe opendir(path) else {
            // A file, or nothing that can be read: whoever opens it says so.
            return [path]
        }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { buffer in
                unsafe String(decoding: buffer.prefix { $0 != 0 }, as: UTF8.self)
            }
            if !name.hasPrefix("."), suffixes.contains(where: name.hasSuffix) { names.append(name) }
        }
        guard !names.isEmpty else {
            throw PKIError(
                .fileUnreadable, subject: path, "there is no file in this directory that counts",
                expected: suffixes.map { "*\($0)" }.joined(separator: ", "))
        }
        return names.sorted().map { "\(path)/\($0)" }
    }
}
