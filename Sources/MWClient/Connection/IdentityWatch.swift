import MWPKI

/// When the files of our identity are others than those that the connection was made with. A value; who asks it looks at the files.
///
/// A change counts when two looks in a row find the same: whoever replaces a certificate and its key writes two files.
struct IdentityWatch {
    /// What the connection in use was made with.
    private var used: FileSnapshot?
    /// What could not be used, or led to no connection, and the looks that are left before it is tried again.
    private var failed: (files: FileSnapshot, looks: Int)?
    private var found: FileSnapshot?

    /// Looks before what failed is tried again: with a look a second, half a minute.
    private static let looksAfterFailure = 30

    /// A connection was made with `files` as they were.
    mutating func connected(with files: FileSnapshot?) {
        self.used = files
        self.found = nil
        self.failed = nil
    }

    /// A connection with `files` could not be made.
    mutating func attemptFailed(with files: FileSnapshot?) {
        self.found = nil
        self.failed = files.map { ($0, Self.looksAfterFailure) }
    }

    /// The files are so now. Returns whether to move over to a connection that is made with them.
    mutating func looked(at files: FileSnapshot) -> Bool {
        guard let used = self.used, files != used else {
            self.found = nil
            return false
        }
        if let failed = self.failed, failed.files == files, failed.looks > 0 {
            self.failed?.looks -= 1
            return false
        }
        defer { self.found = files }
        return self.found == files
    }
}
