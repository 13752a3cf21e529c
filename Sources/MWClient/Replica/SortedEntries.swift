// Entries in the order of their keys, as a value: a copy costs one reference, and what two copies have in common they share.
//
//   chunks: [ [a b c …] [k l m …] [r s t …] … ]       each non-empty, at most `maximumChunk` entries, all in order
//
// A lookup is a binary search over the chunks' first keys and one within a chunk. A change copies the chunk it is in, and the array of
// chunks, only if a copy of the whole shares them. Chunks that are the same storage are the same entries: `forEachDifference` skips them.

/// What a replica holds.
struct SortedEntries: Sendable {
    private var chunks: [[Entry]] = []
    private(set) var count = 0
    /// About what it takes in memory.
    private(set) var byteCount = 0

    /// Entries of a chunk at most: a change moves half of them on the average, a lookup goes through seven.
    private static let maximumChunk = 128
    /// What an entry takes beside its bytes: two arrays' headers and its place in a chunk.
    static let bytesPerEntry = 160

    static func byteCount(of entry: Entry) -> Int { entry.key.count + entry.value.count + self.bytesPerEntry }

    subscript(key: [UInt8]) -> Entry? {
        let (chunk, index, isFound) = self.position(of: key)
        return isFound ? self.chunks[chunk][index] : nil
    }

    /// Appends an entry whose key is above all others.
    mutating func append(_ entry: Entry) {
        if let last = self.chunks.indices.last, self.chunks[last].count < Self.maximumChunk {
            self.chunks[last].append(entry)
        } else {
            self.chunks.append([entry])
        }
        self.count += 1
        self.byteCount += Self.byteCount(of: entry)
    }

    /// Puts an entry in the place of its key.
    ///
    /// - Returns: what was there.
    @discardableResult
    mutating func put(_ entry: Entry) -> Entry? {
        self.byteCount += Self.byteCount(of: entry)
        let (chunk, index, isFound) = self.position(of: entry.key)
        if isFound {
            let old = self.chunks[chunk][index]
            self.byteCount -= Self.byteCount(of: old)
            self.chunks[chunk][index] = entry
            return old
        }
        self.count += 1
        guard chunk < self.chunks.count else {
            self.chunks.append([entry])
            return nil
        }
        self.chunks[chunk].insert(entry, at: index)
        if self.chunks[chunk].count > Self.maximumChunk {
            let middle = self.chunks[chunk].count / 2
            let upper = Array(self.chunks[chunk][middle...])
            self.chunks[chunk].removeSubrange(middle...)
            self.chunks.insert(upper, at: chunk + 1)
        }
        return nil
    }

    /// Makes a key absent.
    ///
    /// - Returns: what was there.
    @discardableResult
    mutating func remove(_ key: [UInt8]) -> Entry? {
        let (chunk, index, isFound) = self.position(of: key)
        guard isFound else { return nil }
        let old = self.chunks[chunk].remove(at: index)
        self.count -= 1
        self.byteCount -= Self.byteCount(of: old)
        if self.chunks[chunk].isEmpty {
            self.chunks.remove(at: chunk)
        } else if chunk + 1 < self.chunks.count, self.chunks[chunk].count + self.chunks[chunk + 1].count <= Self.maximumChunk / 2 {
            self.chunks[chunk] += self.chunks[chunk + 1]
            self.chunks.remove(at: chunk + 1)
        }
        return old
    }

    /// Calls `body` for the entries of `range`, in order, until it returns false.
    func forEach(in range: KeyRange, isBackward: Bool = false, _ body: (Entry) -> Bool) {
        guard !range.isEmpty else { return }
        if isBackward { return self.forEachBackward(in: range, body) }
        var (chunk, index, _) = self.position(of: range.lower)
        while chunk < self.chunks.count {
            while index < self.chunks[chunk].count {
                let entry = self.chunks[chunk][index]
                if let upper = range.upper, !entry.key.lexicographicallyPrecedes(upper) { return }
                guard body(entry) else { return }
                index += 1
            }
            chunk += 1
            index = 0
        }
    }

    private func forEachBackward(in range: KeyRange, _ body: (Entry) -> Bool) {
        var (chunk, index, _) = range.upper.map { self.position(of: $0) } ?? (self.chunks.count, 0, false)
        while true {
            while index == 0 {
                guard chunk > 0 else { return }
                chunk -= 1
                index = self.chunks[chunk].count
            }
            index -= 1
            let entry = self.chunks[chunk][index]
            guard !entry.key.lexicographicallyPrecedes(range.lower), body(entry) else { return }
        }
    }

    /// Calls `body` for each key whose entries differ between `old` and this, in order, with both.
    func forEachDifference(since old: SortedEntries, _ body: (_ before: Entry?, _ after: Entry?) -> Void) {
        var left = Cursor()
        var right = Cursor()
        while true {
            while left.index == 0, right.index == 0, left.chunk < old.chunks.count, right.chunk < self.chunks.count,
                Self.isSame(old.chunks[left.chunk], self.chunks[right.chunk])
            {
                left.chunk += 1
                right.chunk += 1
            }
            switch (left.entry(of: old.chunks), right.entry(of: self.chunks)) {
            case (nil, nil): return
            case (let before?, nil):
                body(before, nil)
                left.advance(in: old.chunks)
            case (nil, let after?):
                body(nil, after)
                right.advance(in: self.chunks)
            case (let before?, let after?):
                if before.key == after.key {
                    if before != after { body(before, after) }
                    left.advance(in: old.chunks)
                    right.advance(in: self.chunks)
                } else if before.key.lexicographicallyPrecedes(after.key) {
                    body(before, nil)
                    left.advance(in: old.chunks)
                } else {
                    body(nil, after)
                    right.advance(in: self.chunks)
                }
            }
        }
    }

    private struct Cursor {
        var chunk = 0
        var index = 0

        func entry(of chunks: [[Entry]]) -> Entry? { self.chunk < chunks.count ? chunks[self.chunk][self.index] : nil }

        mutating func advance(in chunks: [[Entry]]) {
            self.index += 1
            if self.index == chunks[self.chunk].count {
                self.chunk += 1
                self.index = 0
            }
        }
    }

    private static func isSame(_ left: [Entry], _ right: [Entry]) -> Bool {
        unsafe left.withUnsafeBufferPointer { left in
            unsafe right.withUnsafeBufferPointer { right in unsafe left.baseAddress == right.baseAddress && left.count == right.count }
        }
    }

    /// The place of the first entry whose key is not below `key`.
    private func position(of key: [UInt8]) -> (chunk: Int, index: Int, isFound: Bool) {
        let chunk = Self.firstIndex(below: self.chunks.count) {
            !self.chunks[$0][self.chunks[$0].count - 1].key.lexicographicallyPrecedes(key)
        }
        guard chunk < self.chunks.count else {
            // Behind everything: the last chunk takes it while there is room.
            guard let last = self.chunks.indices.last, self.chunks[last].count < Self.maximumChunk else { return (chunk, 0, false) }
            return (last, self.chunks[last].count, false)
        }
        let index = Self.firstIndex(below: self.chunks[chunk].count) { !self.chunks[chunk][$0].key.lexicographicallyPrecedes(key) }
        return (chunk, index, self.chunks[chunk][index].key == key)
    }

    /// The first index for which `isReached` holds, if it holds for all behind one; `count` when for none.
    private static func firstIndex(below count: Int, _ isReached: (Int) -> Bool) -> Int {
        var lower = 0
        var upper = count
        while lower < upper {
            let middle = (lower + upper) / 2
            if isReached(middle) { upper = middle } else { lower = middle + 1 }
        }
        return lower
    }
}
