import MWKeystore
import MWPKI

/// Any file gives entries or a typed error.
enum KeystoreFuzz {
    static func run(_ input: [UInt8]) {}
}
