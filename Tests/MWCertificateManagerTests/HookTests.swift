import MWCertificateManager
import Testing

@Suite struct HookTests {
    @Test("a program that cannot be started says why")
    func missing() async throws {
        await #expect(throws: PresentingError.self) { try await HookProgram(path: "/nonexistent/program").run(["present"]) }
    }
}
