import MWClient
import Testing

@Suite struct EndpointTests {
    @Test(
        "URLs of wss are read",
        arguments: [
            ("wss://localhost:8443", "localhost", 8443, "/"), ("WSS://example.org", "example.org", 443, "/"),
            ("wss://[::1]:8443/store?a=b", "::1", 8443, "/store?a=b"), ("wss://10.0.0.1:1/", "10.0.0.1", 1, "/"),
            ("wss://a?b", "a", 443, "/?b"),
        ])
    func valid(url: String, host: String, port: Int, path: String) throws {
        let endpoint = try Endpoint(url)
        #expect(endpoint.host == host && endpoint.port == port && endpoint.path == path)
    }

    @Test(
        "anything else is refused with a reason",
        arguments: [
            "", "localhost:8443", "ws://localhost:8080", "http://a", "https://a", "wss://", "wss://:1", "wss://a:", "wss://a:0",
            "wss://a:65536",
            "wss://a:1x", "wss://a:+1", "wss://user@a", "wss://u:p@a:1", "wss://a#f", "wss://a/#f", "wss://[::1", "wss://[::1]x",
            "wss://::1",
            "wss://a b", "wss://a/ b", "wss://a/\r\nX: y", "wss://a\r\nb", "wss://é",
        ])
    func invalid(url: String) {
        #expect(throws: ClientError.self) { try Endpoint(url) }
    }

    @Test("ws:// names the tunnel")
    func unencrypted() {
        let error = #expect(throws: ClientError.self) { try Endpoint("ws://localhost:8080") }
        #expect(error?.code == .invalidArgument)
        #expect(error?.description.contains("mwstorage tunnel") == true)
    }
}
