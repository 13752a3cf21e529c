import MWProtocol
import NIOCore

/// In which order a range is read.
public enum ScanDirection: Hashable, Sendable {
    /// From the lowest key up.
    case forward
    /// From the highest key down.
    case backward
}

/// How a range is read.
public struct ScanOptions: Hashable, Sendable {
    /// In which order.
    public var direction = ScanDirection.forward
    /// Values are left out, and read as empty.
    public var isKeysOnly = false
    /// All entries are of one revision of the store. If not, each page is of its own: a change may be missed, or seen, anywhere behind the
    /// last key that was read.
    public var isConsistent = true
    /// Entries of a page, at most; 0 is the server's choice.
    public var pageEntries = 0
    /// Bytes of keys and values after which a page ends; 0 is the server's choice.
    public var pageBytes = 0
    /// Of each page; `timeouts.request` if not given.
    public var timeout: Duration?

    /// The defaults.
    public init() {}
}

/// The entries of a range, read page by page as they are asked for: the next page is fetched when the last entry of a page was taken.
///
/// Consistent, it reads a snapshot of the server's. That ends with its connection: after a reconnection the scan goes on if the store has not
/// changed since, and throws `snapshotLost` otherwise. Not consistent, it goes on behind the last key. A snapshot that is not read for long
/// ends as well; the server says how long.
public struct Scan: AsyncSequence, Sendable {
    /// What it goes through.
    public typealias Element = Entry

    /// The same, a page at a time.
    public let pages: ScanPages

    /// Begins anew; nothing is asked before the first element is.
    public func makeAsyncIterator() -> Iterator { Iterator(pages: self.pages.makeAsyncIterator()) }

    /// Goes through the entries once.
    public struct Iterator: AsyncIteratorProtocol {
        private var pages: ScanPages.Iterator
        private var page: [Entry] = []
        private var next = 0

        init(pages: ScanPages.Iterator) { self.pages = pages }

        /// The next entry; `nil` behind the last.
        ///
        /// - Throws: ``ClientError``; whatever it is, this iterator has ended then.
        public mutating func next() async throws -> Entry? {
            while self.next >= self.page.count {
                guard let page = try await self.pages.next() else { return nil }
                self.page = page.entries
                self.next = 0
            }
            defer { self.next += 1 }
            return self.page[self.next]
        }
    }
}

/// A page of a scan.
public struct ScanPage: Hashable, Sendable {
    /// The store's when it was read: of all pages the same, if the scan is consistent.
    public let revision: Revision
    /// In the scan's order; of the last page perhaps none.
    public let entries: [Entry]
}

/// The pages of a ``Scan``. There is at least one, if the range is empty, too: it says the revision.
public struct ScanPages: AsyncSequence, Sendable {
    /// What it goes through.
    public typealias Element = ScanPage

    let core: ClientCore
    let range: KeyRange
    let options: ScanOptions

    /// Begins anew; nothing is asked before the first element is.
    public func makeAsyncIterator() -> Iterator {
        Iterator(cursor: ScanCursor(core: self.core, range: self.range, options: self.options))
    }

    /// Goes through the pages once.
    public struct Iterator: AsyncIteratorProtocol {
        let cursor: ScanCursor

        /// The next page; `nil` behind the last.
        ///
        /// - Throws: ``ClientError``; whatever it is, this iterator has ended then.
        public mutating func next() async throws -> ScanPage? { try await self.cursor.next() }
    }
}

/// Where a scan stands. Lets the server's snapshot go at its end, or when nobody goes on.
final class ScanCursor {
    private struct Snapshot {
        let id: Int64
        let revision: Int64
        let origin: AnswerOrigin
    }

    private let core: ClientCore
    private let options: ScanOptions
    /// What is left of it.
    private var range: KeyRange
    private var snapshot: Snapshot?
    private var hasBegun = false
    private var hasEnded = false

    init(core: ClientCore, range: KeyRange, options: ScanOptions) {
        self.core = core
        self.range = range
        self.options = options
    }

    deinit { self.closeSnapshot() }

    func next() async throws -> ScanPage? {
        guard !self.hasEnded else { return nil }
        guard case .native = self.core.clientProtocol else { throw ClientError.unsupported("a scan") }
        do {
            return try await self.fetch()
        } catch {
            self.end()
            throw error
        }
    }

    private func fetch() async throws -> ScanPage {
        guard self.options.isConsistent else { return try await self.take(self.page(in: nil)) }
        if !self.hasBegun {
            // Most ranges are small: one page is consistent in itself, and needs no snapshot.
            let (page, origin) = try await self.page(in: nil)
            guard page.hasMore else { return try self.take((page, origin)) }
            let snapshot = try await self.openSnapshot()
            if snapshot.revision == page.revision, snapshot.origin.incarnation == origin.incarnation {
                return try self.take((page, origin))
            }
        }
        return try await self.take(self.pageOfSnapshot())
    }

    private func pageOfSnapshot() async throws -> (NativeRead.Page, AnswerOrigin) {
        guard let snapshot = self.snapshot else { throw Self.lost }
        do {
            return try await self.page(in: snapshot)
        } catch let error as ClientError where error.code == .snapshotLost {
            // Nothing has changed, perhaps: then a new one is the same.
            self.snapshot = nil
            let again = try await self.openSnapshot()
            guard again.revision == snapshot.revision, again.origin.incarnation == snapshot.origin.incarnation else { throw error }
            return try await self.page(in: again)
        }
    }

    private static let lost = ClientError(
        .snapshotLost, subject: "scan", what: "its snapshot is gone, and the store has changed since", remedy: "begin again")

    private func openSnapshot() async throws -> Snapshot {
        let (opened, origin) = try await self.core.ask(NativeOpenSnapshot(), self.options.timeout)
        let snapshot = Snapshot(id: opened.snapshot, revision: opened.revision, origin: origin)
        self.snapshot = snapshot
        return snapshot
    }

    private func page(in snapshot: Snapshot?) async throws -> (NativeRead.Page, AnswerOrigin) {
        var scan = NativeScan()
        scan.range = self.range.native
        scan.isBackward = self.options.direction == .backward
        scan.isKeysOnly = self.options.isKeysOnly
        scan.limit = Int64(max(0, self.options.pageEntries))
        scan.maximumBytes = Int64(max(0, self.options.pageBytes))
        scan.snapshot = snapshot?.id
        let request = Request(scan, connection: snapshot?.origin.connection)
        return try await self.core.ask(request, self.options.timeout) { (fields, origin) throws(ProtocolError) in
            (try NativeRead.page(fields), origin)
        }
    }

    private func take(_ answer: (page: NativeRead.Page, origin: AnswerOrigin)) throws(ClientError) -> ScanPage {
        let (page, origin) = answer
        let entries = page.entries.compactMap { $0.entry(in: origin.incarnation) }
        self.hasBegun = true
        if page.hasMore {
            guard let last = entries.last, self.range.contains(last.key) else {
                throw ClientError(.protocolMismatch, subject: "scan", what: "the server says that there is more, and not behind what")
            }
            self.range =
                switch self.options.direction {
                case .forward: KeyRange(from: last.key + [0], to: self.range.upper)
                case .backward: KeyRange(from: self.range.lower, to: last.key)
                }
        } else {
            self.end()
        }
        return ScanPage(revision: Revision(origin.incarnation, page.revision), entries: entries)
    }

    private func end() {
        self.hasEnded = true
        self.closeSnapshot()
    }

    private func closeSnapshot() {
        guard let snapshot = self.snapshot else { return }
        self.snapshot = nil
        var request = NativeCloseSnapshot()
        request.snapshot = snapshot.id
        self.core.post(Request(request), onlyOn: snapshot.origin.connection)
    }
}

extension StorageClient {
    /// Reads a range; see ``Scan`` for what holds when the connection is lost. Nothing is asked before the first entry is.
    ///
    /// ```swift
    /// for try await entry in client.scan(.prefix(Array("users/".utf8))) { … }
    /// ```
    ///
    /// In mwDB's protocol, which has no scans, the first entry throws `unsupported`.
    public func scan(_ range: KeyRange, options: ScanOptions = ScanOptions()) -> Scan {
        Scan(pages: ScanPages(core: self.core, range: range, options: options))
    }
}
