#if !LIBFUZZER
    import Glibc

    /// `mwstorage-fuzz TARGET SECONDS [CORPUS-DIRECTORY | INPUT-FILE…]`: seeded mutation of the corpus, or each input once.
    ///
    /// The same targets are driven by coverage when built with `--sanitize=fuzzer -Xswiftc -DLIBFUZZER`; see scripts/fuzz.
    @main
    enum Mutation {
        static func main() throws {
            let arguments = CommandLine.arguments
            guard arguments.count >= 3, let target = FuzzTarget(rawValue: arguments[1]), let seconds = Int(arguments[2]) else {
                print("usage: mwstorage-fuzz \(FuzzTarget.allCases.map(\.rawValue).joined(separator: "|")) SECONDS [CORPUS | INPUT…]")
                exit(64)
            }
            try Mutator(target: target, paths: Array(arguments.dropFirst(3))).run(seconds: seconds)
        }
    }
#endif
