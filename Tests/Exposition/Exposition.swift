/// A strict reader of Prometheus' text format 0.0.4, written from its description and not from our writer: every line must be understood.
package struct Exposition {
    package struct Series: Hashable {
        package var name: String
        package var labels: [String: String]
    }

    package struct Malformed: Error, CustomStringConvertible {
        var line: String
        var why: String
        package var description: String { "\(why): \(line)" }
    }

    package private(set) var types: [String: String] = [:]
    package private(set) var help: [String: String] = [:]
    package private(set) var values: [Series: Double] = [:]

    package subscript(name: String, labels: [String: String] = [:]) -> Double? { self.values[Series(name: name, labels: labels)] }

    package init(_ text: String) throws {
        guard text.hasSuffix("\n") else { throw Malformed(line: String(text.suffix(40)), why: "the last line has no end") }
        var finished: Set<String> = []
        var current: String?
        for line in text.dropLast().split(separator: "\n", omittingEmptySubsequences: false).map(String.init) {
            if line.hasPrefix("#") {
                let words = line.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false).map(String.init)
                guard words.count == 4, words[0] == "#", ["HELP", "TYPE"].contains(words[1]), Self.isName(words[2], colons: true) else {
                    throw Malformed(line: line, why: "neither HELP nor TYPE")
                }
                if current != words[2] {
                    if let current { finished.insert(current) }
                    current = words[2]
                    guard !finished.contains(words[2]) else { throw Malformed(line: line, why: "a family in two places") }
                }
                if words[1] == "HELP" {
                    guard self.help.updateValue(words[3], forKey: words[2]) == nil else { throw Malformed(line: line, why: "HELP twice") }
                } else {
                    guard ["counter", "gauge", "histogram"].contains(words[3]) else { throw Malformed(line: line, why: "unknown type") }
                    guard self.types.updateValue(words[3], forKey: words[2]) == nil else { throw Malformed(line: line, why: "TYPE twice") }
                }
                continue
            }
            let (series, value) = try Self.sample(line)
            guard let current, let type = self.types[current] else { throw Malformed(line: line, why: "a sample before its TYPE") }
            let suffixes = type == "histogram" ? ["_bucket", "_sum", "_count"] : [""]
            guard suffixes.contains(where: { current + $0 == series.name }) else {
                throw Malformed(line: line, why: "a sample of another family than \(current)")
            }
            if type == "counter", !series.name.hasSuffix("_total") { throw Malformed(line: line, why: "a counter without _total") }
            if type == "counter", value < 0 { throw Malformed(line: line, why: "a negative counter") }
            guard self.values.updateValue(value, forKey: series) == nil else { throw Malformed(line: line, why: "a series twice") }
        }
        try self.checkHistograms()
    }

    /// Buckets only grow, end with +Inf, and that is the count.
    private func checkHistograms() throws {
        for (family, type) in self.types where type == "histogram" {
            var groups: [[String: String]: [(Double, Double)]] = [:]
            for (series, value) in self.values where series.name == family + "_bucket" {
                var labels = series.labels
                guard let bound = labels.removeValue(forKey: "le").flatMap(Self.number) else {
                    throw Malformed(line: "\(series)", why: "a bucket without a bound")
                }
                groups[labels, default: []].append((bound, value))
            }
            for (labels, buckets) in groups {
                let sorted = buckets.sorted { $0.0 < $1.0 }
                guard zip(sorted, sorted.dropFirst()).allSatisfy({ $0.1 <= $1.1 }), sorted.last?.0 == .infinity,
                    sorted.last?.1 == self[family + "_count", labels], self[family + "_sum", labels] != nil
                else { throw Malformed(line: family, why: "buckets that do not add up") }
            }
        }
    }

    private static func sample(_ line: String) throws -> (Series, Double) {
        var rest = line[...]
        let name = rest.prefix { $0 != "{" && $0 != " " }
        guard self.isName(String(name), colons: true) else { throw Malformed(line: line, why: "not a metric's name") }
        rest = rest.dropFirst(name.count)
        var labels: [String: String] = [:]
        if rest.first == "{" {
            rest = rest.dropFirst()
            while rest.first != "}" {
                let label = String(rest.prefix { $0 != "=" })
                guard self.isName(label, colons: false) else { throw Malformed(line: line, why: "not a label's name") }
                rest = rest.dropFirst(label.count + 1)
                guard rest.first == "\"" else { throw Malformed(line: line, why: "a label without a value") }
                rest = rest.dropFirst()
                var value = ""
                while let character = rest.first, character != "\"" {
                    rest = rest.dropFirst()
                    guard character == "\\" else {
                        value.append(character)
                        continue
                    }
                    switch rest.popFirst() {
                    case "\\": value += "\\"
                    case "\"": value += "\""
                    case "n": value += "\n"
                    default: throw Malformed(line: line, why: "an unknown escape")
                    }
                }
                guard rest.popFirst() == "\"" else { throw Malformed(line: line, why: "a value without an end") }
                guard labels.updateValue(value, forKey: label) == nil else { throw Malformed(line: line, why: "a label twice") }
                if rest.first == "," { rest = rest.dropFirst() } else if rest.first != "}" { throw Malformed(line: line, why: "labels") }
            }
            rest = rest.dropFirst()
        }
        guard rest.first == " ", let value = self.number(String(rest.dropFirst())) else { throw Malformed(line: line, why: "no number") }
        return (Series(name: String(name), labels: labels), value)
    }

    private static func number(_ text: String) -> Double? {
        switch text {
        case "+Inf": .infinity
        case "-Inf": -.infinity
        case "NaN": .nan
        default: text.contains(where: { !"0123456789.+-eE".contains($0) }) ? nil : Double(text)
        }
    }

    private static func isName(_ text: String, colons: Bool) -> Bool {
        guard let first = text.utf8.first, !(0x30...0x39).contains(first) else { return false }
        return text.utf8.allSatisfy { byte in
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x5F: true
            case 0x3A: colons
            default: false
            }
        }
    }
}
