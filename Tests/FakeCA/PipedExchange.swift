package import MWACME
internal import MWPKI

// A CA and its client in two processes: one line of JSON each way for a request and its response.
//
//   {"method":"POST","url":"https://…","headers":[["name","value"]…],"body":"base64url"}
//   {"status":200,"headers":[["name","value"]…],"body":"base64url"}       or       {"failure":"…"}

package enum PipedExchange {
    package static func line(_ request: HTTPRequest) -> String {
        text([
            "method": .string(request.method.rawValue), "url": .string(request.url), "headers": headers(request.headers),
            "body": .string(Base64URL.encode(request.body)),
        ])
    }

    package static func line(_ result: Result<HTTPResponse, TransferFailure>) -> String {
        switch result {
        case .failure(let failure): text(["failure": .string("\(failure)")])
        case .success(let response):
            text([
                "status": .integer(Int64(response.status)), "headers": headers(response.headers),
                "body": .string(Base64URL.encode(response.body)),
            ])
        }
    }

    package static func request(_ line: String) -> HTTPRequest? {
        guard let json = try? JSONValue(parsing: Array(line.utf8)),
            let method = json["method"]?.string.flatMap({ HTTPRequest.Method(rawValue: $0) }),
            let url = json["url"]?.string, let body = json["body"]?.string.flatMap({ Base64URL.decode($0) })
        else { return nil }
        return HTTPRequest(method: method, url: url, headers: headers(json), body: body)
    }

    package static func response(_ line: String) -> Result<HTTPResponse, TransferFailure> {
        guard let json = try? JSONValue(parsing: Array(line.utf8)), let status = json["status"]?.integer,
            let body = json["body"]?.string.flatMap({ Base64URL.decode($0) })
        else { return .failure(.other(line)) }
        return .success(HTTPResponse(status: status, headers: headers(json), body: body))
    }

    private static func text(_ members: [String: JSONValue]) -> String {
        String(decoding: JSONValue.object(members).encoded, as: UTF8.self)
    }

    private static func headers(_ headers: [HTTPRequest.Header]) -> JSONValue {
        .array(headers.map { .array([.string($0.name), .string($0.value)]) })
    }

    private static func headers(_ json: JSONValue) -> [HTTPRequest.Header] {
        (json["headers"]?.array ?? []).compactMap { $0.strings }.filter { $0.count == 2 }.map { .init($0[0], $0[1]) }
    }
}
