import FakeCA
import MWACME
import MWPKI
import Testing

@Suite struct ObjectTests {
    @Test("JSON is read as RFC 8259 says")
    func json() throws {
        let text =
            #" {"a": [1, -2, 3.5, 1e3, 12345678901234567168, true, false, null], "b\u00e9\ud83d\ude00": "\"\\\/\b\f\n\r\t", "": {}} "#
        let value = try JSONValue(parsing: Array(text.utf8))
        #expect(
            value["a"]?.array == [
                .integer(1), .integer(-2), .number(3.5), .number(1000), .number(12345678901234567168), .bool(true), .bool(false), .null,
            ])
        #expect(value["bé😀"]?.string == "\"\\/\u{8}\u{c}\n\r\t")
        #expect(try JSONValue(parsing: value.encoded) == value)
    }

    @Test(
        "what is no JSON is refused",
        arguments: [
            "", " ", "{", "}", "[1,]", "{\"a\":1,}", "{a:1}", "01", "1.", ".5", "-", "+1", "1e", "tru", "nulll", "\"", "\"\\x\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"a\nb\"", "[1 2]", "{\"a\" 1}", "1 1", "NaN", String(repeating: "[", count: 100_000),
        ])
    func notJSON(_ text: String) {
        #expect(throws: JSONValue.Malformed.self) { try JSONValue(parsing: Array(text.utf8)) }
    }

    @Test("JSON of broken UTF-8 is refused")
    func brokenText() {
        #expect(throws: JSONValue.Malformed.self) { try JSONValue(parsing: [0x22, 0xC3, 0x28, 0x22]) }
    }

    @Test(
        "HTTP dates in all three forms",
        arguments: [
            "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "sun, 6 nov 1994 08:49:37 gmt",
        ])
    func httpDates(_ text: String) { #expect(Timestamp(httpDate: text)?.secondsSince1970 == 784_111_777) }

    @Test(
        "what is no HTTP date",
        arguments: [
            "", "soon", "Sun, 06 Nov 1994", "Sun, 06 Nov 1994 8:49:37 GMT", "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 99 Nov 1994 08:49:37 GMT",
        ])
    func notHTTPDates(_ text: String) { #expect(Timestamp(httpDate: text) == nil) }

    @Test("RFC 3339 with fractions and offsets")
    func rfc3339() throws {
        let expected = try #require(Timestamp(year: 2021, month: 1, day: 3, hour: 0, minute: 0, second: 0))
        for text in ["2021-01-03T00:00:00Z", "2021-01-03t00:00:00.999z", "2021-01-03T01:30:00+01:30", "2021-01-02T19:00:00-05:00"] {
            #expect(Timestamp(rfc3339: text) == expected, "\(text)")
        }
        for text in [
            "", "2021-01-03", "2021-01-03T00:00:00", "2021-01-03T00:00:00.Z", "2021-01-03T00:00:00+1", "2021-13-03T00:00:00Z",
            "２021-01-03T00:00:00Z",
        ] {
            #expect(Timestamp(rfc3339: text) == nil, "\(text)")
        }
    }

    @Test("Retry-After in seconds, as a date, absurd, absent")
    func retryAfter() {
        let now = Timestamp(secondsSince1970: 784_111_700)
        func at(_ text: String) -> Timestamp? { HTTPResponse(status: 200, headers: [.init("RETRY-AFTER", text)]).retryAfter(at: now) }
        #expect(at("120") == now.adding(seconds: 120))
        #expect(at(" 0 ") == now)
        #expect(at("Sun, 06 Nov 1994 08:49:37 GMT") == now.adding(seconds: 77))
        // As long as a week at most: longer is a mistake that would outlast the certificate.
        #expect(at("999999999999999999999999") == now.adding(days: 7))
        #expect(at("Sun, 06 Nov 2094 08:49:37 GMT") == now.adding(days: 7))
        #expect(at("-1") == nil && at("") == nil && at("1.5") == nil)
    }

    @Test("Link headers: several in one, quoted or not, with commas inside")
    func links() {
        let response = HTTPResponse(
            status: 200,
            headers: [
                .init("Link", #"<https://a/1>;rel="alternate", <https://a/2,x;y>; title="a, b"; rel="next alternate""#),
                .init("link", "<https://a/3>;rel=up,<https://a/4>;rel=ALTERNATE"), .init("Link", "garbage, <>;rel=alternate, <https://a/5"),
            ])
        #expect(response.links(relation: "alternate") == ["https://a/1", "https://a/2,x;y", "https://a/4"])
    }

    @Test(
        "identifiers are read into their one form",
        arguments: [
            ("WWW.Example.Test.", "www.example.test"), ("*.example.test", "*.example.test"), ("localhost", "localhost"),
            ("192.0.2.1", "192.0.2.1"), ("2001:0DB8:0:0::1", "2001:db8::1"), ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ])
    func identifiers(_ text: String, _ expected: String) { #expect(Identifier(text)?.value == expected) }

    @Test(
        "what is no identifier",
        arguments: [
            "", ".", "*", "*.", "a..b", "a.*.b", "-a.test", "a-.test", "a b.test", "bücher.example", "1.2.3.999", "a/b", "::gg",
            "a\u{0}.test", String(repeating: "a", count: 64) + ".test", String(repeating: "a.", count: 127) + "test",
        ])
    func notIdentifiers(_ text: String) { #expect(Identifier(text) == nil) }

    @Test("references are resolved against where they were found")
    func references() {
        let base = "https://ca.test:14000/acme/order/1?x=/y"
        #expect(WebAddress.resolve("https://b.test/z", against: base) == "https://b.test/z")
        #expect(WebAddress.resolve("/z", against: base) == "https://ca.test:14000/z")
        #expect(WebAddress.resolve("//b.test/z", against: base) == "https://b.test/z")
        #expect(WebAddress.resolve("2", against: base) == "https://ca.test:14000/acme/order/2")
        for bad in ["http://b.test/", "", "ftp://x", "https://", "https://user@b.test/", "https://b.test/\n"] {
            #expect(WebAddress.resolve(bad, against: base).map { $0.hasPrefix("https://ca.test:14000/") } ?? true, "\(bad)")
        }
    }

    @Test("base64url without padding, and only its one text")
    func base64() {
        for count in 0..<40 {
            let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 37 &+ count) }
            #expect(Base64URL.decode(Base64URL.encode(bytes)) == bytes)
        }
        #expect(Base64URL.encode([0xFB, 0xFF]) == "-_8")
        for text in ["A", "AA=", "AB", "A+", "A/", "A A", "AAAAA"] { #expect(Base64URL.decode(text) == nil, "\(text)") }
    }

    @Test("a stranger's text cannot forge a line or flood a log")
    func problemText() throws {
        let detail = "line\u{1b}[31m\nacme: all is well\u{202e}" + String(repeating: "x", count: 100_000)
        let response = HTTPResponse(
            status: 400,
            body: JSONValue.object(["type": .string("urn:ietf:params:acme:error:malformed"), "detail": .string(detail)]).encoded)
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in route == .newOrder ? .response(response) : nil }
        let text = try #require(try bench.issue().error).description
        #expect(!text.contains("\n") && !text.contains("\u{1b}") && !text.contains("\u{202e}"))
        #expect(text.utf8.count < 2000)
    }
}
