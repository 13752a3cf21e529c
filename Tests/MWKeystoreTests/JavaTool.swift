import Foundation
import Testing

/// keytool and openssl as the judges of what we write.
enum JavaTool {
    static let keytool: String? = find("keytool")
    static let openssl: String? = find("openssl")

    private static func find(_ name: String) -> String? {
        let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
        return folders.map { "\($0)/\(name)" }.first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    /// Runs a program to its end.
    static func run(_ program: String, _ arguments: [String]) throws -> (status: Int32, output: String) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let output = pipe.fileHandleForReading.readDataToEndOfFile()
        try pipe.fileHandleForReading.close()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }
}

extension Trait where Self == ConditionTrait {
    /// Says so in the test's output where Java is missing.
    static var needsKeytool: Self {
        .enabled(if: JavaTool.keytool != nil, "keytool is not installed: what we write is NOT tried with Java")
    }
    static var needsOpenSSL: Self { .enabled(if: JavaTool.openssl != nil, "openssl is not installed: what we write is NOT tried with it") }
}
