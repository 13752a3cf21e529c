#if LIBFUZZER
    import Glibc

    /// Which decoder to run; libFuzzer owns the command line.
    private let target: FuzzTarget = {
        guard let name = unsafe getenv("FUZZ_TARGET"), let target = unsafe FuzzTarget(rawValue: String(cString: name)) else {
            print("set FUZZ_TARGET to one of: \(FuzzTarget.allCases.map(\.rawValue).joined(separator: ", "))")
            exit(64)
        }
        return target
    }()

    /// libFuzzer has the `main`, and calls this with each input.
    @_cdecl("LLVMFuzzerTestOneInput")
    package func fuzzOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
        unsafe target.run(Array(UnsafeBufferPointer(start: bytes, count: count)))
        return 0
    }
#endif
