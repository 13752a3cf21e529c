internal import Glibc

/// One request as it came.
package struct TestRequest: Sendable, Hashable {
    package struct Header: Sendable, Hashable {
        package var name: String
        package var value: String
    }

    /// Counted from 0, in the order of acceptance: equal for requests of one connection.
    package var connection: Int
    package var method: String
    package var target: String
    package var headers: [Header]
    package var body: [UInt8]

    /// The first value of a header, whatever the case of its name.
    package func value(of name: String) -> String? {
        headers.first { $0.name.lowercased() == name.lowercased() }?.value
    }

    var endsConnection: Bool { value(of: "Connection")?.lowercased() == "close" }
}

/// A request, and the wire to answer it on. Used on the connection's own thread only.
package final class TestExchange {
    package let request: TestRequest
    private let stream: TestStream

    init(request: TestRequest, stream: TestStream) {
        self.request = request
        self.stream = stream
    }

    /// A whole reply; `Content-Length` and the end of lines are added.
    @discardableResult
    package func reply(status: Int, headers: [(String, String)] = [], body: [UInt8]) -> Bool {
        var text = "HTTP/1.1 \(status) Scripted\r\n"
        for (name, value) in headers { text += "\(name): \(value)\r\n" }
        text += "Content-Length: \(body.count)\r\n\r\n"
        // RFC 9110 §9.3.2: a HEAD has the headers only.
        return send(Array(text.utf8) + (request.method == "HEAD" ? [] : body))
    }

    @discardableResult
    package func reply(status: Int, headers: [(String, String)] = [], body: String = "") -> Bool {
        reply(status: status, headers: headers, body: Array(body.utf8))
    }

    /// These bytes, as they are.
    /// - Returns: False when the peer is gone or the server stops.
    @discardableResult
    package func send(_ bytes: [UInt8]) -> Bool { stream.write(bytes) }

    @discardableResult
    package func send(_ text: String) -> Bool { stream.write(Array(text.utf8)) }

    /// Waits.
    /// - Returns: False when the server stops meanwhile.
    @discardableResult
    package func pause(_ duration: Duration) -> Bool { stream.pause(duration) }

    /// Waits until the peer ends the connection or the server stops.
    package func waitForEnd() { stream.waitForEnd() }

    /// Ends with close_notify.
    package func close() { stream.close(notify: true) }

    /// Ends TCP without close_notify, as a cut does.
    package func closeWithoutNotify() { stream.close(notify: false) }

    /// Ends with RST.
    package func reset() { stream.reset() }
}
