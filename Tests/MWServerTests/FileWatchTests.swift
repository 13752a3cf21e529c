import Glibc
import MWPKI
import MWServer
import NIOCore
import TestCertificates
import Testing

/// When files are read again: the machine as a value, over real files of a temporary directory.
@Suite struct FileWatchTests {
    private let start = NIODeadline.uptimeNanoseconds(1_000_000_000)

    private func after(_ seconds: Int64) -> NIODeadline { self.start + .seconds(seconds) }

    private func snapshot(_ directory: TemporaryDirectory, _ names: String...) -> FileSnapshot {
        FileSnapshot(of: names.map { directory.file($0) })
    }

    private func link(_ target: String, _ path: String) {
        let fresh = path + ".new"
        #expect(unsafe symlink(target, fresh) == 0)
        #expect(unsafe rename(fresh, path) == 0)
    }

    @Test func `A change is loaded when it is the same at two looks, and once`() throws {
        let directory = try TemporaryDirectory()
        try directory.write("a", "1")
        let old = self.snapshot(directory, "a")
        var machine = FileWatchStateMachine(ReloadPolicy(), loaded: old, at: self.start)
        #expect(machine.polled(old, at: self.after(1)) == .none)
        try directory.write("a", "2")
        let half = self.snapshot(directory, "a")
        #expect(machine.polled(half, at: self.after(2)) == .none)
        try directory.write("a", "3")
        let new = self.snapshot(directory, "a")
        #expect(half != new && half != old)
        #expect(machine.polled(new, at: self.after(3)) == .none)
        #expect(machine.polled(new, at: self.after(4)) == .reload(.files))
        machine.reloadBegan(with: new)
        machine.reloadEnded(isDone: true, at: self.after(4))
        #expect(machine.polled(new, at: self.after(5)) == .none)
        #expect(machine.loaded == new)
    }

    @Test func `What could not be used is not tried again until it changes, or a tenth of the interval is over`() throws {
        let directory = try TemporaryDirectory()
        try directory.write("a", "good")
        let old = self.snapshot(directory, "a")
        try directory.write("a", "bad")
        let bad = self.snapshot(directory, "a")
        var machine = FileWatchStateMachine(ReloadPolicy(), loaded: old, at: self.start)
        machine.reloadBegan(with: bad)
        machine.reloadEnded(isDone: false, at: self.after(10))
        #expect(machine.polled(bad, at: self.after(11)) == .none)
        #expect(machine.loaded.paths(differingFrom: bad) == [directory.file("a")])
        #expect(machine.polled(bad, at: self.after(10 + 359)) == .none)
        #expect(machine.polled(bad, at: self.after(10 + 360)) == .reload(.timer))
        // The old files again: nothing to be read, but it says so by reading.
        #expect(machine.polled(old, at: self.after(400)) == .none)
        #expect(machine.polled(old, at: self.after(401)) == .reload(.files))
    }

    @Test func `Files that never rest are read all the same`() throws {
        let directory = try TemporaryDirectory()
        var machine = FileWatchStateMachine(ReloadPolicy(), loaded: self.snapshot(directory, "a"), at: self.start)
        var actions: [FileWatchStateMachine.Action] = []
        for second in 0..<7 {
            try directory.write("a", String(repeating: "x", count: second + 1))
            actions.append(machine.polled(self.snapshot(directory, "a"), at: self.after(Int64(second))))
        }
        #expect(actions.firstIndex(of: .reload(.files)) == 5)
    }

    @Test func `Without watching only the timer counts, and without both nothing does`() throws {
        let directory = try TemporaryDirectory()
        let old = self.snapshot(directory, "a")
        try directory.write("a", "x")
        let new = self.snapshot(directory, "a")
        var policy = ReloadPolicy()
        policy.watchInterval = nil
        var machine = FileWatchStateMachine(policy, loaded: old, at: self.start)
        #expect([3598, 3599].map { machine.polled(new, at: self.after($0)) } == [.none, .none])
        #expect(machine.polled(new, at: self.after(3600)) == .reload(.timer))
        policy.interval = nil
        machine = FileWatchStateMachine(policy, loaded: old, at: self.start)
        #expect(machine.polled(new, at: self.after(1_000_000)) == .none)
    }

    // A volume of Kubernetes: file -> ..data/file, ..data -> ..2026_1, and an update renames a new ..data over the old one.
    @Test func `A volume that is switched by one symbolic link is a change of every file in it`() throws {
        let directory = try TemporaryDirectory()
        for version in ["..1", "..2"] {
            #expect(unsafe mkdir(directory.file(version), 0o700) == 0)
            for name in ["tls.crt", "tls.key"] { try directory.write("\(version)/\(name)", version) }
        }
        self.link("..1", directory.file("..data"))
        for name in ["tls.crt", "tls.key"] { self.link("..data/\(name)", directory.file(name)) }
        let old = self.snapshot(directory, "tls.crt", "tls.key")
        #expect(old == self.snapshot(directory, "tls.crt", "tls.key"))
        self.link("..2", directory.file("..data"))
        let new = self.snapshot(directory, "tls.crt", "tls.key")
        #expect(old.paths(differingFrom: new) == [directory.file("tls.crt"), directory.file("tls.key")])
    }

    @Test func `Files that come, go, or get another mode are changes; in directories too`() throws {
        let directory = try TemporaryDirectory()
        #expect(unsafe mkdir(directory.file("d"), 0o700) == 0)
        func differ(_ body: () throws -> Void) throws -> [String] {
            let before = self.snapshot(directory, "a", "d")
            try body()
            return before.paths(differingFrom: self.snapshot(directory, "a", "d"))
        }
        #expect(try differ {} == [])
        #expect(try differ { try directory.write("a", "x") } == [directory.file("a")])
        #expect(try differ { try directory.write("d/one.pem", "x") }.contains(directory.file("d/one.pem")))
        #expect(try differ { _ = unsafe chmod(directory.file("a"), 0o640) } == [directory.file("a")])
        #expect(try differ { _ = unsafe unlink(directory.file("d/one.pem")) }.contains(directory.file("d/one.pem")))
        #expect(try differ { _ = unsafe unlink(directory.file("a")) } == [directory.file("a")])
    }
}
