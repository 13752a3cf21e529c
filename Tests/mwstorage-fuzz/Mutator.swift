import Glibc

/// Without coverage: inputs of the corpus, changed at random from a seed that is printed, so that a finding can be repeated.
struct Mutator {
    let target: FuzzTarget
    let seed: UInt64
    private let corpus: [[UInt8]]
    private let isReplay: Bool

    /// - Parameter paths: One corpus directory; or inputs to run once each.
    init(target: FuzzTarget, paths: [String]) throws {
        self.target = target
        seed = UInt64.random(in: 0...UInt64.max)
        var inputs: [[UInt8]] = []
        var isReplay = false
        for path in paths {
            if let names = Self.names(in: path) {
                inputs += names.compactMap { Self.contents(path + "/" + $0) }
            } else if let input = Self.contents(path) {
                inputs.append(input)
                isReplay = true
            }
        }
        self.isReplay = isReplay
        corpus = inputs.isEmpty ? [[]] : inputs
    }

    func run(seconds: Int) {
        if isReplay { return corpus.forEach(target.run) }
        print("mutating \(corpus.count) inputs for \(seconds) s, seed \(seed)")
        var random = SplitMix(state: seed)
        let clock = ContinuousClock()
        let end = clock.now.advanced(by: .seconds(seconds))
        var runs = 0
        repeat {
            for _ in 0..<64 {
                let input = mutated(using: &random)
                Self.write(input, to: "fuzz-last-input")
                target.run(input)
                runs += 1
            }
        } while clock.now < end
        _ = unsafe unlink("fuzz-last-input")
        print("\(runs) runs without a finding")
    }

    private func mutated(using random: inout SplitMix) -> [UInt8] {
        var input = corpus[Int.random(in: 0..<corpus.count, using: &random)]
        for _ in 0..<Int.random(in: 1...8, using: &random) {
            let position = input.isEmpty ? 0 : Int.random(in: 0..<input.count, using: &random)
            switch Int.random(in: 0..<6, using: &random) {
            case 0 where !input.isEmpty: input[position] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 1 where !input.isEmpty: input[position] = [0, 1, 0x7F, 0x80, 0xFF, 0x23].randomElement(using: &random) ?? 0
            case 2: input.insert(UInt8.random(in: 0...255, using: &random), at: position)
            case 3 where !input.isEmpty:
                input.removeSubrange(position..<min(input.count, position + Int.random(in: 1...16, using: &random)))
            case 4: input.removeLast(input.count - position)
            default:
                let other = corpus[Int.random(in: 0..<corpus.count, using: &random)]
                input.insert(contentsOf: other.suffix(Int.random(in: 0...64, using: &random)), at: position)
            }
        }
        return input
    }

    // The input is on disk before it runs: a trap leaves it there.
    private static func write(_ input: [UInt8], to path: String) {
        guard let file = unsafe fopen(path, "w") else { return }
        _ = unsafe fwrite(input, 1, input.count, file)
        unsafe fclose(file)
    }

    private static func names(in directory: String) -> [String]? {
        guard let stream = unsafe opendir(directory) else { return nil }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }

    private static func contents(_ path: String) -> [UInt8]? {
        guard let file = unsafe fopen(path, "r") else { return nil }
        defer { unsafe fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        let count = unsafe fread(&bytes, 1, bytes.count, file)
        return Array(bytes.prefix(count))
    }
}

/// SplitMix64: small, and the same for the same seed everywhere.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
