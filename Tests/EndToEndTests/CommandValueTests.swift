import MWPKI
import Testing

@testable import mwstorage

/// What the command line is made of, as values.
@Suite("Values of the command line")
struct CommandValueTests {
    @Test(
        "sizes are read with their unit",
        arguments: [
            ("512", 512), ("64KiB", 65536), ("16MiB", 16 << 20), ("2gib", 2 << 30), ("1kB", 1000), ("0", 0),
        ])
    func sizes(_ text: String, _ bytes: Int) { #expect(ByteSize(argument: text)?.bytes == bytes) }

    @Test("what is no size is refused", arguments: ["", "KiB", "-1", "1.5MiB", "16 MiB", "99999999999TiB", "x"])
    func badSizes(_ text: String) { #expect(ByteSize(argument: text) == nil) }

    @Test(
        "spans of time are read with their unit, and only with it",
        arguments: [
            ("250ms", Duration.milliseconds(250)), ("30s", .seconds(30)), ("5m", .seconds(300)), ("24h", .seconds(86400)),
            ("7d", .seconds(604800)),
        ])
    func spans(_ text: String, _ duration: Duration) {
        #expect(TimeSpan(argument: text)?.duration == duration)
        #expect(TimeSpan(duration).description == TimeSpan(argument: text)?.description)
    }

    @Test("what is no span is refused", arguments: ["", "5", "s", "-5s", "1.5h", "5 s", "5w"])
    func badSpans(_ text: String) { #expect(TimeSpan(argument: text) == nil) }

    @Test("addresses", arguments: [("localhost:8443", "localhost", 8443), ("[::1]:0", "::1", 0), ("127.0.0.1:65535", "127.0.0.1", 65535)])
    func addresses(_ text: String, _ host: String, _ port: Int) {
        let address = HostAndPort(argument: text)
        #expect(address?.host == host && address?.port == port)
        #expect(address?.description == text)
    }

    @Test("what is no address is refused", arguments: ["", "localhost", ":8443", "::1:8443", "a:65536", "a:-1", "a:"])
    func badAddresses(_ text: String) { #expect(HostAndPort(argument: text) == nil) }

    @Test("Base64 and hexadecimal survive writing and reading", arguments: 0..<20)
    func encodings(_ count: Int) {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 37 &+ count) }
        #expect(Bytes.bytes(base64: Bytes.base64(bytes)) == bytes)
        #expect(Bytes.bytes(hex: Hex.encode(bytes)) == bytes)
    }

    @Test(
        "RFC 4648 §10's examples",
        arguments: [
            ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy"),
        ])
    func base64(_ plain: String, _ encoded: String) {
        #expect(Bytes.base64(Array(plain.utf8)) == encoded)
        #expect(Bytes.bytes(base64: encoded) == Array(plain.utf8))
    }

    @Test("what is no Base64 or hexadecimal is refused", arguments: ["Zg", "Zg=", "Z===", "Zm9v!", "Zg==Zg=="])
    func badEncodings(_ text: String) {
        #expect(Bytes.bytes(base64: text) == nil)
        #expect(Bytes.bytes(hex: text) == nil)
    }

    @Test("JSON escapes what it must")
    func json() {
        let value = JSONValue.object([("a\"b", .string("\u{0}\n\\é😀")), ("n", .number(.infinity)), ("l", .array([1, true, .null]))])
        #expect(value.text == #"{"a\"b":"\u0000\n\\é😀","n":null,"l":[1,true,null]}"#)
    }

    @Test("a failure is three lines, or one JSON object")
    func failure() {
        let failure = CommandFailure(.badInput, "what", why: "seen: x", remedy: "do y", code: "a.b")
        #expect(failure.text == "mwstorage: what\n  seen: x\n  to mend it: do y\n")
        #expect(failure.json.text == #"{"error":"what","why":"seen: x","remedy":"do y","code":"a.b","exit":65}"#)
    }
}
