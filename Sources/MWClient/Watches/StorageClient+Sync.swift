// What stays in sync with the store.

extension StorageClient {
    /// Reports every change in `ranges`, once, in order, across lost connections.
    ///
    /// ```swift
    /// for try await event in try client.watch([.prefix(Array("users/".utf8))]) {
    ///     if case .changes(let revision, let changes) = event { print(revision.number, changes.map(\.key)) }
    /// }
    /// ```
    ///
    /// - Parameters:
    ///   - ranges: ranges that overlap are put together.
    ///   - start: from now on; or with the state; or behind a revision that was kept.
    /// - Throws: ``ClientError`` with `invalidArgument`, where the ranges hold nothing; `unsupported` in mwDB's protocol.
    public func watch(
        _ ranges: [KeyRange], from start: WatchStart = .now, options: WatchOptions = WatchOptions()
    ) throws -> WatchSequence {
        try self.requireNative("a watch")
        return WatchSequence(try WatchStateMachine.Configuration(checking: ranges, from: start, options), core: self.core)
    }

    /// Begins a local copy of `ranges`, which loads as soon as the client is connected.
    ///
    /// - Throws: ``ClientError`` with `invalidArgument`, where the ranges hold nothing; `unsupported` in mwDB's protocol.
    public func replica(of ranges: [KeyRange], options: ReplicaOptions = ReplicaOptions()) throws -> Replica {
        try self.requireNative("a replica")
        return try Replica(of: ranges, options: options, core: self.core)
    }

    /// Begins a cache of what is read from `ranges` through it.
    ///
    /// - Throws: ``ClientError`` with `invalidArgument`, where the ranges hold nothing; `unsupported` in mwDB's protocol.
    public func nearCache(of ranges: [KeyRange] = [.all], options: NearCacheOptions = NearCacheOptions()) throws -> NearCache {
        try self.requireNative("a near cache")
        return try NearCache(of: ranges, options: options, client: self)
    }

    /// What an administrator wants to be read afresh, from now on: for programs that hold by themselves what they read. Whoever reads the stream
    /// drops or reloads what it holds of the ranges, and then calls ``ReloadRequest/done()``.
    ///
    /// ```swift
    /// for await request in client.reloadRequests {
    ///     await model.load(request.ranges)
    ///     request.done()
    /// }
    /// ```
    public var reloadRequests: AsyncStream<ReloadRequest> { self.core.reloadRequests() }
}
