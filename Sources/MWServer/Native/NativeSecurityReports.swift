internal import MWPKI
internal import MWProtocol
internal import MWTLS

// Who is refused and what is loaded, as the native protocol says it.

extension NativeReloadState {
    init(_ status: SecurityStatus) {
        self.init()
        self.generation = Int64(clamping: status.set.generation)
        self.loadedAt = NativeTime(status.loadedAt)
        self.triedAt = NativeTime(status.lastReload.at)
        self.trigger = "\(status.lastReload.trigger)"
        self.failure = status.lastReload.error
        self.reloadsDone = Int64(clamping: status.reloadsDone)
        self.reloadsFailed = Int64(clamping: status.reloadsFailed)
        self.changedFiles = status.changedPaths
        self.loaded = NativeText.list(status.set.context.identity?.leaf, status.set.context.trustStore)
    }
}

extension Refusal {
    /// Throws ``NativeFailure`` for a target that names nothing, or several things.
    init(_ target: NativeRefusalTarget) throws {
        let named = [target.fingerprint, target.serial, target.identity].compactMap { $0 }
        guard named.count == 1, target.issuer == nil || target.serial != nil else {
            throw NativeFailure(
                .invalidArgument, "a refusal is about a fingerprint, or a serial number and its issuer, or an identity",
                remedy: "give exactly one of them")
        }
        let text: String
        if let fingerprint = target.fingerprint {
            text = fingerprint.lowercased().hasPrefix("sha256:") ? fingerprint : "sha256:\(fingerprint)"
        } else if let serial = target.serial {
            text = "serial \(serial)" + (target.issuer.map { " issuer \($0)" } ?? "")
        } else {
            text = "identity \(target.identity ?? "")"
        }
        try self.init(text)
    }
}

extension NativeRefusal {
    init(_ record: RefusalRecord) {
        self.init()
        switch record.refusal {
        case .certificate(let fingerprint): self.target.fingerprint = "\(fingerprint)"
        case .serialNumber(let number, let issuer):
            self.target.serial = number
            self.target.issuer = issuer
        case .identity(let name): self.target.identity = name
        }
        self.since = NativeTime(record.since)
        self.by = record.by
    }
}
