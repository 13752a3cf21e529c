internal import MWPKI

// RFC 5280 §5.1: SEQ { SEQ tbs { INTEGER 1, algorithm, issuer, thisUpdate, nextUpdate,
//                                SEQ OF SEQ { INTEGER serial, Time date, extensions OPTIONAL } OPTIONAL, [0] … }, … }

/// The entries of a revocation list that we signed ourselves, with their dates, so that its successor can repeat them.
enum RevokedSerialNumbers {
    static func list(of list: CertificateRevocationList) -> [(serialNumber: String, date: Timestamp)] {
        let dated = (try? entries(of: list.derBytes[...])) ?? [:]
        // The serial numbers are those that everybody else reads; a date that cannot be read is replaced by the list's own.
        return list.revokedSerialNumbers.sorted().map { ($0, dated[$0] ?? list.thisUpdate) }
    }

    private static func entries(of der: ArraySlice<UInt8>) throws -> [String: Timestamp] {
        var file = DERReader(der)
        var list = try file.sequence("the list")
        var body = try list.sequence("the list")
        // Version, algorithm, issuer, this update, next update.
        for _ in 0..<5 { _ = try body.readElement("the list") }
        guard body.nextTag == DERTag.sequence else { return [:] }
        var revoked = try body.sequence("the entries")
        var dates: [String: Timestamp] = [:]
        while !revoked.isAtEnd {
            var entry = try revoked.sequence("an entry")
            let serial = try entry.read(DERTag.integer, "a serial number")
            let date = try entry.readElement("a date")
            dates[hexadecimal(serial)] = timestamp(date.tag, String(decoding: date.content, as: UTF8.self))
        }
        return dates
    }

    /// Lower-case hex without leading zeros, as `Certificate.serialNumber`.
    private static func hexadecimal(_ bytes: ArraySlice<UInt8>) -> String {
        let digits = Hex.encode(bytes).drop { $0 == "0" }
        return digits.isEmpty ? "0" : String(digits)
    }

    /// UTCTime `YYMMDDHHMMSSZ` or GeneralizedTime `YYYYMMDDHHMMSSZ`, RFC 5280 §4.1.2.5.
    private static func timestamp(_ tag: UInt8, _ text: String) -> Timestamp? {
        let isShort = tag == 0x17
        let digits = text.dropLast().compactMap(\.wholeNumberValue)
        guard text.last == "Z", digits.count == (isShort ? 12 : 14) else { return nil }
        func number(_ start: Int, _ count: Int) -> Int { digits[start..<start + count].reduce(0) { $0 * 10 + $1 } }
        let shift = isShort ? 2 : 4
        let year = number(0, shift)
        return Timestamp(
            year: isShort ? year + (year < 50 ? 2000 : 1900) : year, month: number(shift, 2), day: number(shift + 2, 2),
            hour: number(shift + 4, 2), minute: number(shift + 6, 2), second: number(shift + 8, 2))
    }
}
