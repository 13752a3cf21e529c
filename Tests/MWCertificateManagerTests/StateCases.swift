import FakeCA
import Glibc
import MWACME
import MWCertificateManager
import MWPKI
import Synchronization
import TestCertificates
import Testing

@Suite struct StateCases {
    static let troubles: [ACMEError] = [
        ACMEError(.diskFull, subject: "disk", "no space left on device", disposition: .retry),
        ACMEError(.diskReadOnly, subject: "disk", "read-only file system", disposition: .retry),
        ACMEError(.stateUnwritable, subject: "disk", "input/output error", disposition: .retry),
    ]

    @Test("case 35 disk_full_readonly: found before an order, the old certificate stays, and it goes on by itself", arguments: troubles)
    func trouble(_ error: ACMEError) async throws {
        let bench = try ManagerBench()
        try await bench.run(for: hour)
        bench.files.faults.withLock {
            $0.prove = error
            $0.write = error
            $0.writesLeft = 0
        }
        try await bench.run(for: 65 * day)
        #expect(bench.orders() == 1)
        #expect(try bench.current()?.number == 1)
        #expect(bench.logs.count("acme.\(error.code)") > 1)
        bench.files.faults.withLock { $0 = .init() }
        try await bench.run(for: day)
        #expect(bench.orders() == 2)
        #expect(try bench.current()?.number == 2)
    }

    // Method: the disk fails at each write of an issuance in turn; with a disk again, it is finished.
    @Test("case 35 disk_full_readonly: a disk that fills up at any write costs no second order", arguments: 0...4)
    func fillsUp(_ writes: Int) async throws {
        let bench = try ManagerBench()
        bench.files.faults.withLock {
            $0.write = Self.troubles[0]
            $0.writesLeft = writes
        }
        try await bench.run(for: hour)
        bench.files.faults.withLock { $0 = .init() }
        try await bench.run(for: day)
        #expect(try bench.current() != nil)
        #expect(bench.orders() <= 2)
        #expect(bench.transfer.with { $0.accounts.count } <= 2)
        // The order was saved before the disk was full: it is the one that was finished.
        if writes >= 4 { #expect(bench.orders() == 1) }
    }

    @Test("case 35 disk_full_readonly: what a real small or read-only file system says is typed")
    func realDisk() throws {
        let temporary = try TemporaryDirectory()
        try #require(
            unsafe mount("tmpfs", temporary.path, "tmpfs", 0, "size=64k,mode=700") == 0,
            "NOT TESTED: a full file system; mounting one needs root")
        defer { unsafe umount2(temporary.path, CInt(MNT_DETACH)) }
        let directory = StateDirectory(path: temporary.path)
        #expect(throws: ACMEError(.diskFull, subject: "", "")) { try directory.proveWritable() }
        #expect(unsafe access(temporary.file("probe"), F_OK) != 0)
        #expect(unsafe mount("tmpfs", temporary.path, "tmpfs", UInt(MS_REMOUNT | MS_RDONLY), "") == 0)
        #expect(throws: ACMEError(.diskReadOnly, subject: "", "")) { try directory.proveWritable() }
        #expect(throws: ACMEError(.diskReadOnly, subject: "", "")) { try StateLock.take(in: directory) }
    }

    // Method: three files as a killed process leaves them, one of which is young; and one that is none of ours.
    @Test("case 43 perms_and_secrets: what a killed process left of a file it wrote is removed, not what is being written")
    func leftovers() throws {
        let bench = try ManagerBench()
        try bench.directory.prepare()
        let names = [".certificate-00000001.0123456789abcdef", ".order-0123.0123456789abcdef", ".attempts.fedcba9876543210", ".mine.old"]
        for name in names {
            try PrivateFile.write(Array("key".utf8), to: "\(bench.directory.path)/\(name)")
            guard name != names[2] else { continue }
            var times = [timespec(tv_sec: time(nil) - 3700, tv_nsec: 0), timespec(tv_sec: time(nil) - 3700, tv_nsec: 0)]
            #expect(unsafe utimensat(AT_FDCWD, "\(bench.directory.path)/\(name)", &times, 0) == 0)
        }
        try bench.directory.prepare()
        let left = names.filter { unsafe access("\(bench.directory.path)/\($0)", F_OK) == 0 }
        #expect(left == [names[2], names[3]])
    }

    // Method: the newest generation is cut at every offset, zeroed from and changed at every third; then a manager starts.
    @Test("case 36 torn_store: damage anywhere in the newest generation leaves the previous one, with a warning")
    func torn() async throws {
        let bench = try ManagerBench()
        try await bench.run(for: hour)
        let first = try #require(try bench.current())
        _ = try await bench.operations.obtain(bench.configuration(), .always)
        let path = bench.temporary.file("acme/certificate-00000002")
        let whole = try PrivateFile.read(path).bytes
        for offset in 0..<whole.count {
            var damages = [Array(whole.prefix(offset))]
            if offset % 3 == 0 {
                damages.append(Array(whole.prefix(offset)) + [UInt8](repeating: 0, count: whole.count - offset))
                var changed = whole
                changed[offset] ^= 0x40
                damages.append(changed)
            }
            for damage in damages {
                try Self.overwrite(path, damage)
                let contents = try bench.directory.load()
                #expect(contents.current?.number == 1)
                #expect(contents.current?.generation.leaf == first.generation.leaf)
                #expect(contents.warnings.count == 1)
            }
        }
        let before = bench.orders()
        for _ in 0..<3 { try await bench.run(for: hour) }
        #expect(bench.orders() == before)
        #expect(bench.installed.withLock { $0 } == [1, 1, 1, 1])
        // Its number is not used again, and the damaged file stays until there are two newer ones.
        try await bench.run(for: 62 * day)
        #expect(try bench.current()?.number == 3)
        try await bench.run(for: 62 * day)
        #expect(unsafe access(path, F_OK) != 0)
    }

    private static func overwrite(_ path: String, _ bytes: [UInt8]) throws {
        let descriptor = unsafe open(path, O_WRONLY | O_TRUNC)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        #expect(unsafe bytes.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) } == bytes.count)
    }

    @Test("case 36 torn_store: with every file damaged, one certificate is ordered and there is no loop")
    func allTorn() async throws {
        let bench = try ManagerBench()
        try await bench.run(for: hour)
        for name in try FilesIn.names(bench.directory.path) where name != "lock" {
            try Self.overwrite("\(bench.directory.path)/\(name)", Array("garbage".utf8))
        }
        for _ in 0..<5 { try await bench.run(for: hour) }
        #expect(bench.orders() == 2)
        #expect(bench.logs.count("acme.stateMalformed") > 0)
        #expect(try bench.current()?.number == 2)
    }

    @Test("case 36 torn_store: a damaged account is as it was before its last change")
    func tornAccount() async throws {
        let bench = try ManagerBench()
        _ = try await bench.operations.register(bench.plan())
        let name = try #require(try FilesIn.names(bench.directory.path).first { $0.hasPrefix("account-") && !$0.hasSuffix(".previous") })
        try Self.overwrite("\(bench.directory.path)/\(name)", [])
        try await bench.run(for: hour)
        #expect(bench.transfer.with { $0.accounts.count } == 1)
        #expect(try bench.current() != nil)
    }

    @Test("case 36: an order that was finished is not resumed: a renewal has a new key")
    func finishedOrder() async throws {
        let bench = try ManagerBench()
        // The order's file survives, as after a power cut right after the certificate was saved.
        let saved = Mutex<[UInt8]>([])
        let path = bench.directory.path
        var driver = bench.driver
        driver.observer = { progress in
            guard progress.step == .saveCertificate, !progress.isDone else { return }
            let name = try? FilesIn.names(path).first { $0.hasPrefix("order-") }
            saved.withLock { $0 = name.flatMap { try? PrivateFile.read("\(path)/\($0)").bytes } ?? [] }
        }
        _ = try await ACMEOperations(driver: driver).obtain(bench.configuration(), .ifDue)
        let order = try OrderInFlight(decoding: saved.withLock { $0 }, source: "saved")
        try bench.directory.save(order)
        #expect(try bench.status().orders.isEmpty)
        try await bench.run(for: 70 * day)
        let contents = try bench.directory.load()
        #expect(contents.current?.number == 2)
        #expect(contents.current?.generation.key.publicKeyPin != order.key.publicKeyPin)
        #expect(bench.orders() == 2)
    }

    @Test("case 37 two_processes: one orders, the other waits and picks it up")
    func twoProcesses() async throws {
        let bench = try ManagerBench()
        var first = bench.operations
        // Their locks are as those of two processes: each opens the file.
        first.driver.clock = RealTime()
        let second = first
        let configuration = bench.configuration()
        async let one = first.obtain(configuration, .ifDue)
        async let other = second.obtain(configuration, .ifDue)
        let outcomes = try await [one, other].map { outcome in
            switch outcome {
            case .issued(let current, _): "issued \(current.number)"
            case .obtainedByAnother(let current): "another \(current.number)"
            case .notDue(let current, _, _): "there \(current.number)"
            }
        }
        #expect(outcomes.contains("issued 1"))
        #expect(outcomes.contains("another 1") || outcomes.contains("there 1"))
        #expect(bench.orders() == 1)
    }

    @Test("case 37 two_processes: a server waits while another process orders, and takes what that brought")
    func pickedUp() async throws {
        let bench = try ManagerBench()
        try await bench.run(for: hour)
        let lock = try #require(try StateLock.take(in: bench.directory))
        var configuration = bench.configuration()
        configuration.lockPause = .seconds(600)
        try await bench.run(for: 65 * day, configuration)
        #expect(bench.orders() == 1)
        #expect(bench.logs.count("another process orders") == 1)
        // In the middle of the manager's life the other one gets it, and lets go.
        let begin = bench.clock.date
        let issued = Mutex(false)
        bench.clock.onSleep { [directory = bench.directory] now in
            guard now > begin.adding(seconds: hour), !issued.withLock({ $0 }), var current = try? directory.load().current else { return }
            issued.withLock { $0 = true }
            current.generation.renewal = RenewalState()
            let copy = CertificateGeneration(
                chain: current.generation.chain, key: current.generation.key, directoryURL: current.generation.directoryURL,
                accountURL: current.generation.accountURL, identifiers: current.generation.identifiers, profile: nil,
                created: now, renewal: RenewalState())
            _ = try? directory.add(copy)
        }
        try await bench.run(for: 2 * hour, configuration)
        #expect(bench.installed.withLock { $0 } == [1, 1, 1, 2])
        #expect(bench.orders() == 1)
        lock.release()
    }

    @Test("case 43 perms_and_secrets: what others may read is refused, and not replaced")
    func exposed() async throws {
        let bench = try ManagerBench()
        try await bench.run(for: hour)
        let file = bench.temporary.file("acme/certificate-00000001")
        #expect(unsafe chmod(file, 0o644) == 0)
        await #expect(throws: ACMEError(.stateExposed, subject: "", "")) { try await bench.run(for: hour) }
        #expect(unsafe chmod(file, 0o600) == 0)
        #expect(unsafe chmod(bench.directory.path, 0o750) == 0)
        await #expect(throws: ACMEError(.stateExposed, subject: "", "")) { try await bench.run(for: hour) }
        #expect(throws: ACMEError(.stateExposed, subject: "", "")) { try bench.status() }
        #expect(bench.orders() == 1)
    }
}

enum FilesIn {
    static func names(_ path: String) throws -> [String] {
        guard let directory = unsafe opendir(path) else { throw PresentingError("no \(path)") }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name.0) { unsafe String(cString: $0) }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names
    }
}
