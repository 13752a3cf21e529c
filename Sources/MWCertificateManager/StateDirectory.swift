internal import Glibc
package import MWACME
internal import MWPKI

// What an ACME client remembers:
//
//   DIRECTORY/                 mode 0700; files 0600, whatever the umask
//     lock                     locked (flock) while a process orders or works on an account; the kernel frees it with the process
//     certificate-00000007     a generation: chain, key, names, account, CA, renewal state (MWACME/StateFile: checksummed)
//     certificate-00000006     the one before it; older ones are removed
//     account-HASH             our account at one CA; HASH: 32 hex digits of the SHA-256 of its directory URL
//     account-HASH.previous    as it was before the last change
//     order-HASH               the order in flight at that CA, with its key
//     attempts                 failed attempts while there is no certificate
//     .NAME.HEX                a file being written; of a process that was killed, until the next start an hour or more later
//     probe                    only for a moment: that there is room for what is about to be earned
//
// Every file is written beside its place, synced, renamed, and the directory synced (`PrivateFile.write`). The current
// generation is the one with the highest number that is whole: the rename that puts it there is the only step that counts, so
// there is no pointer that could disagree with it. A damaged file is passed over with a warning and stays for whoever wants to
// look at it, until two newer generations exist; its number is never used again.

/// The state of one ACME client, shared by the processes that use the same directory. Blocks: not on an event loop.
package struct StateDirectory: Sendable {
    /// One generation with the number in its file's name.
    package struct Numbered: Sendable {
        package let number: UInt64
        package var generation: CertificateGeneration

        package init(number: UInt64, generation: CertificateGeneration) {
            self.number = number
            self.generation = generation
        }
    }

    /// What is on disk, and what is wrong with it.
    package struct Contents: Sendable {
        package var current: Numbered?
        package var previous: Numbered?
        /// About files that were passed over.
        package var warnings: [String] = []
    }

    /// What tells that another process wrote: cheap to get, compared as a whole.
    package struct Signature: Sendable, Hashable {
        var names: [String]
        var inode: UInt64
        var modified: [Int]
    }

    /// A chain of ten certificates, an RSA key and the records around them, twice over.
    package static let provenBytes = 256 << 10
    /// The current generation and the one before it.
    package static let keptGenerations = 2
    /// No write takes as long: what is older than this nobody will rename any more.
    package static let leftoverSeconds = 3600

    package let path: String
    /// How bytes get to the disk; tests put a bad disk here.
    package var files: any StateFiles

    package init(path: String, files: any StateFiles = SystemStateFiles()) {
        var path = path
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        self.path = path
        self.files = files
    }

    // MARK: - The directory

    /// Makes it and its missing parents (0700), or checks that it is ours alone. Throws `stateExposed`, `diskReadOnly`, `stateUnwritable`.
    package func prepare() throws(ACMEError) {
        try makeDirectories(path)
        try check()
        removeLeftovers()
    }

    /// What a process that was killed left of a file it wrote: it may hold a key. Others may be writing theirs now.
    private func removeLeftovers() {
        let oldest = time(nil) - StateDirectory.leftoverSeconds
        for name in names() where StateDirectory.isTemporary(name) {
            var status = stat()
            guard unsafe lstat("\(path)/\(name)", &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_mtim.tv_sec < oldest
            else { continue }
            _ = unsafe unlink("\(path)/\(name)")
        }
    }

    /// As `PrivateFile.write` names them: `.NAME.HEX`, 16 digits.
    private static func isTemporary(_ name: String) -> Bool {
        let parts = name.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count >= 3, parts[0].isEmpty, let end = parts.last, end.utf8.count == 16 else { return false }
        let record = parts[1]
        return end.allSatisfy(\.isHexDigit)
            && (record == "attempts" || [prefix, "account-", "order-"].contains { record.hasPrefix($0) })
    }

    /// Throws `stateExposed` when others may read or change it; nothing when there is none yet.
    package func check() throws(ACMEError) {
        var status = stat()
        guard unsafe stat(path, &status) == 0 else {
            if errno == ENOENT { return }
            throw StateTrouble.error(path, "cannot be read", errno)
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw ACMEError(.stateUnwritable, subject: path, "it is not a directory", remedy: "choose another state directory")
        }
        guard status.st_mode & 0o077 == 0 else {
            throw ACMEError(
                .stateExposed, subject: path,
                "others may read or change the ACME state (mode 0\(String(status.st_mode & 0o7777, radix: 8)))",
                remedy: "run: chmod 700 \(path)")
        }
        let user = geteuid()
        guard status.st_uid == user || user == 0 else {
            throw ACMEError(.stateExposed, subject: path, "it belongs to user \(status.st_uid)", remedy: "run: chown \(user) \(path)")
        }
    }

    private func makeDirectories(_ path: String) throws(ACMEError) {
        var made = unsafe mkdir(path, 0o700) == 0
        if !made, errno == ENOENT, let slash = path.lastIndex(of: "/"), slash != path.startIndex {
            try makeDirectories(String(path[..<slash]))
            made = unsafe mkdir(path, 0o700) == 0
        }
        guard made else {
            if errno == EEXIST { return }
            throw StateTrouble.error(path, "cannot be made", errno)
        }
        // Whatever the umask; and durable, or the first certificate is lost with the directory's name.
        guard unsafe chmod(path, 0o700) == 0 else { throw StateTrouble.error(path, "cannot be made private", errno) }
        let parent = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let descriptor = unsafe open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw StateTrouble.error(parent, "cannot be synced", errno) }
        defer { close(descriptor) }
        // Some file systems cannot sync a directory, and need not.
        guard fsync(descriptor) == 0 || errno == EINVAL else { throw StateTrouble.error(parent, "cannot be synced", errno) }
    }

    /// Proves that what an order brings can be kept: writes, syncs, reads back and removes `provenBytes`.
    ///
    /// Throws `diskFull`, `diskReadOnly`, or `stateUnwritable`.
    package func proveWritable() throws(ACMEError) {
        try files.prove(path + "/probe", bytes: StateDirectory.provenBytes)
    }

    /// Changes when any process changes a generation or an attempt. Costs a listing and two stats.
    package func signature() -> Signature {
        let names = generationNumbers().map(StateDirectory.name)
        var signature = Signature(names: names, inode: 0, modified: [])
        for name in [names.first, "attempts"].compactMap({ $0 }) {
            var status = stat()
            guard unsafe stat("\(path)/\(name)", &status) == 0 else { continue }
            signature.inode = signature.inode &* 31 &+ UInt64(status.st_ino)
            signature.modified += [status.st_mtim.tv_sec, status.st_mtim.tv_nsec, Int(status.st_size)]
        }
        return signature
    }

    // MARK: - Generations

    /// The newest generation that is whole, and the whole one before it.
    ///
    /// Throws `stateExposed` where others may read a file: a key that may be known to others is not used, and not replaced behind
    /// the operator's back.
    package func load() throws(ACMEError) -> Contents {
        try check()
        var contents = Contents()
        for number in generationNumbers() {
            guard contents.previous == nil else { break }
            let name = StateDirectory.name(number)
            do throws(ACMEError) {
                guard let generation: CertificateGeneration = try read(name) else { continue }
                let found = Numbered(number: number, generation: generation)
                if contents.current == nil { contents.current = found } else { contents.previous = found }
            } catch {
                guard error.code == .stateMalformed else { throw error }
                contents.warnings.append("\(error)")
            }
        }
        return contents
    }

    /// Writes the generation after all that ever were, reads it back, and removes what is older than the one before it.
    package func add(_ generation: CertificateGeneration) throws(ACMEError) -> Numbered {
        let number = (generationNumbers().first ?? 0) + 1
        try write(generation, StateDirectory.name(number))
        let whole = try? load()
        guard let current = whole?.current, current.number == number else {
            throw ACMEError(
                .stateUnwritable, subject: "\(path)/\(StateDirectory.name(number))", "what was written cannot be read back",
                remedy: "check the disk", disposition: .retry)
        }
        prune(keeping: [number, whole?.previous?.number ?? number])
        return current
    }

    /// Puts a changed renewal state in its generation's file. Not when that generation has gone.
    package func update(_ numbered: Numbered) throws(ACMEError) {
        guard generationNumbers().contains(numbered.number) else { return }
        try write(numbered.generation, StateDirectory.name(numbered.number))
    }

    private static let prefix = "certificate-"

    static func name(_ number: UInt64) -> String {
        let digits = String(number)
        return prefix + String(repeating: "0", count: max(0, 8 - digits.count)) + digits
    }

    /// Newest first.
    private func generationNumbers() -> [UInt64] {
        names().compactMap { name in
            guard name.hasPrefix(StateDirectory.prefix), let number = UInt64(name.dropFirst(StateDirectory.prefix.count)),
                name == StateDirectory.name(number)
            else { return nil }
            return number
        }.sorted(by: >)
    }

    /// What is older than the oldest that is kept. A damaged one between them stays, to be looked at.
    private func prune(keeping kept: [UInt64]) {
        guard let oldest = kept.min() else { return }
        let numbers = generationNumbers()
        for number in numbers where number < oldest && (numbers.firstIndex(of: number) ?? 0) >= StateDirectory.keptGenerations {
            _ = unsafe unlink("\(path)/\(StateDirectory.name(number))")
        }
    }

    // MARK: - Accounts

    /// Our account at a CA; where its file is damaged, as it was before the last change. Nil where there is none.
    package func account(at directoryURL: String) throws(ACMEError) -> (record: AccountRecord?, warnings: [String]) {
        let name = StateDirectory.accountName(directoryURL)
        var warnings: [String] = []
        for name in [name, name + ".previous"] {
            do throws(ACMEError) {
                guard let record: AccountRecord = try read(name) else { continue }
                guard record.directoryURL == directoryURL else { continue }
                return (record, warnings)
            } catch {
                guard error.code == .stateMalformed else { throw error }
                warnings.append("\(error)")
            }
        }
        return (nil, warnings)
    }

    /// Where our account at a CA is kept: as it is, and as it was.
    package func accountFiles(at directoryURL: String) -> [String] {
        let file = path + "/" + StateDirectory.accountName(directoryURL)
        return [file, file + ".previous"].filter { unsafe access($0, F_OK) == 0 }
    }

    /// Of every CA, in no particular order; damaged ones are left out.
    package func accounts() throws(ACMEError) -> [AccountRecord] {
        try check()
        return try records(prefix: "account-")
    }

    package func save(_ record: AccountRecord) throws(ACMEError) {
        let name = StateDirectory.accountName(record.directoryURL)
        // The key of an account is worth a second copy: some CAs bind it to a contract.
        if let old: AccountRecord = try? read(name), (try? old.encoded()) != (try? record.encoded()) {
            try write(old, name + ".previous")
        }
        try write(record, name)
    }

    // MARK: - Orders

    /// The order in flight at a CA. One whose key is in a generation already was finished: it is removed, and nil.
    package func order(at directoryURL: String, finished contents: Contents) throws(ACMEError) -> (
        record: OrderInFlight?, warnings: [String]
    ) {
        do throws(ACMEError) {
            guard let order: OrderInFlight = try read(StateDirectory.orderName(directoryURL)) else { return (nil, []) }
            let used = [contents.current, contents.previous].compactMap { $0?.generation.key.publicKeyPin }
            if used.contains(order.key.publicKeyPin) {
                // The power failed after the certificate was saved. Resuming would bring the same certificate again.
                removeOrder(at: directoryURL)
                return (nil, [])
            }
            return (order, [])
        } catch {
            guard error.code == .stateMalformed else { throw error }
            return (nil, ["\(error)"])
        }
    }

    package func orders() throws(ACMEError) -> [OrderInFlight] {
        try check()
        return try records(prefix: "order-")
    }

    package func save(_ order: OrderInFlight) throws(ACMEError) { try write(order, StateDirectory.orderName(order.directoryURL)) }

    /// One that stays although it should have gone is recognised by its key.
    package func removeOrder(at directoryURL: String) { _ = unsafe unlink("\(path)/\(StateDirectory.orderName(directoryURL))") }

    // MARK: - Attempts

    /// What is remembered while there is no certificate. A damaged file is as none.
    package func attempts() throws(ACMEError) -> (state: RenewalState, warnings: [String]) {
        do throws(ACMEError) {
            let record: AttemptRecord? = try read("attempts")
            return (record?.renewal ?? RenewalState(), [])
        } catch {
            guard error.code == .stateMalformed else { throw error }
            return (RenewalState(), ["\(error)"])
        }
    }

    package func saveAttempts(_ state: RenewalState) throws(ACMEError) { try write(AttemptRecord(renewal: state), "attempts") }

    package func removeAttempts() { _ = unsafe unlink(path + "/attempts") }

    // MARK: - Files

    private static func accountName(_ directoryURL: String) -> String { "account-" + tag(directoryURL) }
    private static func orderName(_ directoryURL: String) -> String { "order-" + tag(directoryURL) }
    private static func tag(_ directoryURL: String) -> String {
        Hex.encode(OpenSSL.sha256(Array(directoryURL.utf8)).prefix(16))
    }

    private func records<Record: ACMERecord>(prefix: String) throws(ACMEError) -> [Record] {
        var records: [Record] = []
        for name in names().sorted() where name.hasPrefix(prefix) && !name.hasSuffix(".previous") {
            do throws(ACMEError) {
                if let record: Record = try read(name) { records.append(record) }
            } catch {
                guard error.code == .stateMalformed else { throw error }
            }
        }
        return records
    }

    /// Nil when there is no such file. Throws `stateMalformed` for what is damaged, `stateExposed` for what others may read.
    private func read<Record: ACMERecord>(_ name: String) throws(ACMEError) -> Record? {
        let file = "\(path)/\(name)"
        var bytes: [UInt8]
        do {
            guard unsafe access(file, F_OK) == 0 || errno != ENOENT else { return nil }
            bytes = try PrivateFile.read(file, maximumBytes: StateFile.maximumBytes).bytes
        } catch {
            let isExposed = (error as? PKIError)?.code == .filePermissions
            throw ACMEError(isExposed ? .stateExposed : .stateMalformed, subject: file, "\(error)")
        }
        defer { _ = SecretBytes(taking: &bytes) }
        return try Record(decoding: bytes, source: file)
    }

    private func write(_ record: some ACMERecord, _ name: String) throws(ACMEError) {
        let file = "\(path)/\(name)"
        do {
            var bytes = try record.encoded()
            try files.write(SecretBytes(taking: &bytes), to: file)
        } catch {
            throw StateTrouble.error(file, underlying: error)
        }
    }

    private func names() -> [String] {
        guard let directory = unsafe opendir(path) else { return [] }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            names.append(unsafe withUnsafePointer(to: &entry.pointee.d_name.0) { unsafe String(cString: $0) })
        }
        return names
    }
}
