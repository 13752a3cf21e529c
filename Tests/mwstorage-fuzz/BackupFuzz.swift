import MWStorage

/// A manifest is refused, or is written again with the same bytes, and its files are in their directory.
enum BackupFuzz {
    static func run(_ input: [UInt8]) {
        check(input)
        // The checksum would hide the lines from the fuzzer.
        let digits = String(CRC32C.of(input), radix: 16)
        check(input + Array("end \(String(repeating: "0", count: 8 - digits.count))\(digits)\n".utf8))
    }

    private static func check(_ bytes: [UInt8]) {
        do throws(StorageError) {
            let manifest = try BackupManifest(decoding: bytes, path: "input")
            precondition(manifest.encoded == bytes, "a manifest is written in another way")
            for file in manifest.files {
                precondition(!file.name.isEmpty && !file.name.contains("/") && !file.name.hasPrefix("."), "a file that is a path")
            }
        } catch {
            precondition([.corrupt, .formatTooNew].contains(error.code) && error.remedy != nil, "damage that is called \(error)")
        }
    }
}
