import Glibc

/// An IPv4 or IPv6 address in its canonical text form.
struct IPAddress: Hashable {
    let text: String
    let isVersion6: Bool

    init?(_ text: String) {
        var version4 = in_addr()
        var version6 = in6_addr()
        var bytes = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        if unsafe inet_pton(AF_INET, text, &version4) == 1 {
            guard unsafe inet_ntop(AF_INET, &version4, &bytes, socklen_t(bytes.count)) != nil else { return nil }
            self.isVersion6 = false
        } else if unsafe inet_pton(AF_INET6, text, &version6) == 1 {
            guard unsafe inet_ntop(AF_INET6, &version6, &bytes, socklen_t(bytes.count)) != nil else { return nil }
            self.isVersion6 = true
        } else {
            return nil
        }
        self.text = String(decoding: bytes.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}
