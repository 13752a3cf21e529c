package import MWPKI

// IMF-fixdate   Sun, 06 Nov 1994 08:49:37 GMT      what everybody sends
// RFC 850       Sunday, 06-Nov-94 08:49:37 GMT     obsolete, still to be read
// asctime       Sun Nov  6 08:49:37 1994           obsolete, still to be read
// RFC 3339      1994-11-06T08:49:37.123+01:00      inside of JSON

extension Timestamp {
    private static let months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]

    /// RFC 9110 §5.6.7, all three forms; nil when malformed.
    package init?(httpDate text: String) {
        let parts = text.lowercased().split { $0 == " " || $0 == "," || $0 == "-" }.map(String.init)
        func month(_ name: String) -> Int? { Timestamp.months.firstIndex(of: name).map { $0 + 1 } }
        if parts.count == 6, parts[5] == "gmt", let year = Timestamp.number(parts[3], digits: 2...4) {
            guard let day = Timestamp.number(parts[1], digits: 1...2), let month = month(parts[2]) else { return nil }
            // RFC 9110: a two-digit year that would be more than 50 years ahead is in the past; certificates know 1950 to 2049.
            self.init(year: parts[3].count == 2 ? year + (year < 50 ? 2000 : 1900) : year, month: month, day: day, time: parts[4])
        } else if parts.count == 5, let year = Timestamp.number(parts[4], digits: 4...4) {
            guard let day = Timestamp.number(parts[2], digits: 1...2), let month = month(parts[1]) else { return nil }
            self.init(year: year, month: month, day: day, time: parts[3])
        } else {
            return nil
        }
    }

    private init?(year: Int, month: Int, day: Int, time: String) {
        let parts = time.split(separator: ":", omittingEmptySubsequences: false).map { Timestamp.number(String($0), digits: 2...2) }
        guard parts.count == 3, let hour = parts[0], let minute = parts[1], let second = parts[2] else { return nil }
        self.init(year: year, month: month, day: day, hour: hour, minute: minute, second: second)
    }

    /// RFC 3339 §5.6; fractions of a second are cut off. Nil when malformed.
    package init?(rfc3339 text: String) {
        let bytes = Array(text.utf8)
        guard bytes.count >= 20, bytes[4] == UInt8(ascii: "-"), bytes[7] == UInt8(ascii: "-"), [0x54, 0x74, 0x20].contains(bytes[10])
        else { return nil }
        func field(_ range: Range<Int>) -> Int? {
            Timestamp.number(String(decoding: bytes[range], as: UTF8.self), digits: range.count...range.count)
        }
        guard let year = field(0..<4), let month = field(5..<7), let day = field(8..<10), let hour = field(11..<13),
            let minute = field(14..<16), let second = field(17..<19), bytes[13] == 0x3A, bytes[16] == 0x3A,
            let local = Timestamp(year: year, month: month, day: day, hour: hour, minute: minute, second: second)
        else { return nil }
        var rest = bytes[19...]
        if rest.first == UInt8(ascii: ".") {
            rest = rest.dropFirst()
            let digits = rest.prefix { (0x30...0x39).contains($0) }
            guard !digits.isEmpty else { return nil }
            rest = rest.dropFirst(digits.count)
        }
        guard let offset = Timestamp.offset(String(decoding: rest, as: UTF8.self)) else { return nil }
        self = local.adding(seconds: -offset)
    }

    private static func offset(_ text: String) -> Int64? {
        if text == "Z" || text == "z" { return 0 }
        guard text.utf8.count == 6, let sign = text.first, sign == "+" || sign == "-" else { return nil }
        let parts = text.dropFirst().split(separator: ":").map { number(String($0), digits: 2...2) }
        guard parts.count == 2, let hours = parts[0], let minutes = parts[1], hours < 24, minutes < 60 else { return nil }
        return Int64(hours * 3600 + minutes * 60) * (sign == "-" ? -1 : 1)
    }

    private static func number(_ text: String, digits: ClosedRange<Int>) -> Int? {
        guard digits.contains(text.utf8.count), text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        return Int(text)
    }

    package func seconds(since earlier: Timestamp) -> Int64 {
        let (difference, overflow) = secondsSince1970.subtractingReportingOverflow(earlier.secondsSince1970)
        return overflow ? (secondsSince1970 > earlier.secondsSince1970 ? .max : .min) : difference
    }
}
