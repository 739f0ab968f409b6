// Deciding whether an image's signatures hold: which signatures count for which objects, what each
// of them must cover, and what exactly differs where one does not hold.
//
// Every signature of a group must hold, by a known and currently valid key, and must list exactly
// the objects of the group. So success means that nothing was added, removed or changed since every
// one of the signers signed. (An execution control list forgives unknown signers: forgive_invalid.)
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "policy/problem.h"
#include "policy/sif/reader.h"
#include "policy/signature/digest.h"
#include "policy/signature/pem_key.h"
#include "policy/signature/pgp.h"

namespace postern::signature {

// What signatures are checked against. A signature of a form for which there is no material at all
// ends the verification; one by a key that is not among the material is "not valid".
struct KeyMaterial {
  std::vector<std::unique_ptr<PgpRing>> rings;  // asked in this order; none: no OpenPGP material
  std::vector<PublicKey> keys;                  // for DSSE envelopes
  std::vector<std::string> left_out;            // names of certificates that are out of date
  // Asked when no ring has the key of this id (16 or 40 hex digits): a ring with it, or null.
  std::function<std::unique_ptr<PgpRing>(const std::string& key_id)> fetch;
};

struct VerifyOptions {
  // With neither: every group. Numbers as users give them; 0 is an error.
  std::vector<std::uint32_t> groups;
  std::vector<std::uint32_t> objects;
  // Old signatures, of the data alone: they protect neither header nor descriptors. With neither
  // groups nor objects: of the primary partition, or with legacy_all of every object in a group.
  bool legacy = false;
  bool legacy_all = false;
  // Go on after a signature that is not valid; it counts as unvalidated.
  bool forgive_invalid = false;
  // Objects whose data is protected otherwise (a seal), so that it need not be read now.
  std::vector<std::uint32_t> skip_data;
  // More than this to hash is kTooLarge, before any of it is read; 0: no bound.
  std::uint64_t max_hashed_bytes = 0;
  HashProgress progress;
  // Told once, before hashing, how many bytes will be hashed.
  std::function<void(std::uint64_t bytes)> announce;
  unsigned threads = 0;  // for hashing; 0: one a processor
};

enum class Failure : std::uint8_t {
  kNone,
  kNoGroups,       // the image has no object in a group
  kInvalidNumber,  // group or object 0
  kGroupNotFound,
  kObjectNotFound,
  kAmbiguousObject,  // two objects with the same id
  kNoRootPartition,  // legacy mode needs the primary partition
  kUngroupedObject,  // an object that is no signature is in no group
  kNoSignature,
  kTooManySignatures,
  kUnknownForm,  // neither clear-signed nor DSSE
  kNoPgpMaterial,
  kNoPemMaterial,
  kHashType,       // of the signature's descriptor
  kNotValid,       // unknown signer, bad signature, expired or revoked key, malformed metadata
  kFingerprint,    // the descriptor names another signer than the one who signed
  kNotSigned,      // an object that the signature does not list
  kSignedMissing,  // an object that it lists and that is not there
  kHeader,
  kDescriptor,
  kObject,
  kUnreadable,  // an object's bytes are not inside the file, or reading failed
  kEngine,      // a keyring cannot be used
  kTooLarge,    // more to hash than VerifyOptions allow
};

enum class Form : std::uint8_t { kOpenPgp, kDsse };

// One signature, for one of the tasks (a group or an object).
struct SignatureReport {
  std::uint32_t id = 0;     // of the signature object
  std::uint32_t group = 0;  // that it is for, 0: none (legacy object signatures)
  Form form = Form::kOpenPgp;
  bool valid = false;   // signature, signer and metadata; digests are the report's `failure`
  std::string why;      // not valid: why
  std::string claimed;  // "pgp:<40 hex>" as its descriptor says, empty where it says nothing
  std::vector<std::string> identities;  // valid: "pgp:<40 hex>" or "sha256:<64 hex>"s
  std::string fingerprint;              // valid: for people; 40 hex digits or "SHA256:…"
  std::string name;                     // valid: user id, file or subject
  KeyOrigin origin = KeyOrigin::kLocal;
  std::vector<std::uint32_t> objects;  // ids that it covers, ascending
};

struct VerifyReport {
  Failure failure = Failure::kNone;
  std::uint32_t failed_object = 0;  // object, signature or group that failed, 0: none in particular
  Problem problem;                  // in words, where there is a failure
  std::vector<SignatureReport> signatures;
  std::vector<std::string> valid_all;    // identities that validly signed every task
  std::vector<std::string> claimed_all;  // … that the descriptors claim for every task
  std::vector<std::string> claimed_any;  // … for some task
  std::vector<std::string> unvalidated;  // … of signatures that are not valid
};

inline constexpr std::size_t kMaxSignatures = 64;

// `bytes` is what `image` was read from. The objects' data is streamed: it cannot be fetched any
// more.
VerifyReport verify(const sif::Image& image,
                    Snapshot& bytes,
                    const VerifyOptions& options,
                    const KeyMaterial& material);

// The metadata that signs these objects of one group (ascending, at least one), hashed now.
Outcome<std::string> metadata_of(const sif::Image& image,
                                 Snapshot& bytes,
                                 std::uint32_t group,
                                 const std::vector<std::uint32_t>& objects,
                                 const HashProgress& progress = {});

}  // namespace postern::signature
