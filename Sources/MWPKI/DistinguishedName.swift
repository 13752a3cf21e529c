internal import COpenSSL

/// Reading X.501 names.
package enum DistinguishedName {
    /// RFC 4514. Invisible characters are escaped too, so that a name cannot forge a log line.
    package static func text(_ name: OpaquePointer) -> String? {
        OpenSSL.clearErrors()
        defer { OpenSSL.clearErrors() }
        // The second form prints strings that are not the UTF-8 they claim to be.
        for utf8: Int32 in [1, 0] {
            let bytes = unsafe OpenSSL.print { unsafe COpenSSL_X509_NAME_print_rfc4514($0, name, utf8) >= 0 }
            if let bytes, let text = String(validating: bytes, as: UTF8.self) { return VisibleText.escape(text) }
        }
        return nil
    }

    /// The most specific one; it must be printable.
    static func commonName(_ name: OpaquePointer, source: String) throws -> String? {
        var last: Int32 = -1
        while true {
            let next = unsafe X509_NAME_get_index_by_NID(name, NID_commonName, last)
            if next < 0 { break }
            last = next
        }
        guard last >= 0, let entry = unsafe X509_NAME_get_entry(name, last), let value = unsafe X509_NAME_ENTRY_get_data(entry)
        else { return nil }
        var utf8: UnsafeMutablePointer<UInt8>? = nil
        let count = unsafe ASN1_STRING_to_UTF8(&utf8, value)
        defer { unsafe COpenSSL_free(utf8) }
        let bytes = count > 0 ? unsafe Array(UnsafeBufferPointer(start: utf8, count: Int(count))) : []
        guard count >= 0, let text = String(validating: bytes, as: UTF8.self), !text.unicodeScalars.contains(where: VisibleText.isInvisible)
        else {
            throw PKIError(
                .certificateMalformed, subject: source, "a common name with a NUL or other unprintable character",
                remedy: "do not trust this certificate")
        }
        return text
    }
}

/// Text from strangers, made safe to print.
package enum VisibleText {
    package static func isInvisible(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .surrogate, .unassigned: true
        default: false
        }
    }

    /// Invisible characters as RFC 4514 hex pairs of their UTF-8.
    package static func escape(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: isInvisible) else { return text }
        var out = ""
        for scalar in text.unicodeScalars {
            if isInvisible(scalar) {
                for byte in UTF8.encode(scalar) ?? UTF8.EncodedScalar() { out += "\\" + Hex.encode([byte]).uppercased() }
            } else {
                out.unicodeScalars.append(scalar)
            }
        }
        return out
    }
}
