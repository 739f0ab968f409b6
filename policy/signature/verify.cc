#include "policy/signature/verify.h"

#include <algorithm>
#include <map>
#include <set>

#include "policy/signature/clear_sign.h"
#include "policy/signature/dsse.h"
#include "policy/signature/metadata.h"
#include "policy/text/hex.h"

namespace postern::signature {
namespace {

using sif::Descriptor;
using sif::Image;

struct Failed {
  Failure code;
  std::uint32_t object;
  std::string what;
  std::string cure = {};
};
template <class T = Ok>
using Step = Result<T, Failed>;

std::string object_name(std::uint32_t id) {
  return "object " + std::to_string(id);
}

bool is_signature(const Descriptor& descriptor) {
  return descriptor.type == sif::DataType::kSignature;
}

constexpr std::string_view kLegacyPrefix = "SIFHASH:\n";

// What a verification is about: all of a group, or one object.
struct Task {
  bool whole_group = true;
  std::uint32_t group = 0;
  const Descriptor* object = nullptr;  // whole_group: null
};

// A signature whose form has been recognised.
struct Candidate {
  const Descriptor* descriptor;
  std::optional<ClearSigned> clear;  // OpenPGP
  std::optional<Envelope> envelope;  // DSSE
  Failed form_error = {Failure::kUnknownForm, 0, {}};

  [[nodiscard]] bool legacy() const { return clear && clear->text.starts_with(kLegacyPrefix); }
};

// A digest to compare once all objects have been hashed.
struct Comparison {
  std::size_t job;
  Digest wanted;
  std::uint32_t object;
};

class Verification {
 public:
  Verification(const Image& image,
               Snapshot& bytes,
               const VerifyOptions& options,
               const KeyMaterial& material)
      : image_(image), bytes_(bytes), options_(options), material_(material) {}

  VerifyReport run() {
    const Step<> done = steps();
    if (!done) {
      report_.failure = done.error().code;
      report_.failed_object = done.error().object;
      report_.problem = Problem{done.error().what, done.error().cure};
    }
    return std::move(report_);
  }

 private:
  Step<> steps() {
    POSTERN_TRY(unique_ids());
    POSTERN_TRY(make_tasks());
    POSTERN_TRY(no_ungrouped_objects());
    for (const Task& task : tasks_) {
      POSTERN_TRY(run_task(task));
    }
    return compare_data();
  }

  // Signatures name objects by id: with two of one id, what is verified and what is used could
  // differ.
  Step<> unique_ids() const {
    std::set<std::uint32_t> seen;
    for (const Descriptor& descriptor : image_.descriptors()) {
      if (!seen.insert(descriptor.id).second) {
        return Failed{Failure::kAmbiguousObject, descriptor.id,
                      "several objects have the id " + std::to_string(descriptor.id)};
      }
    }
    return Ok{};
  }

  Step<> make_tasks() {
    for (const std::uint32_t group : options_.groups) {
      POSTERN_TRY(add_group(group));
    }
    for (const std::uint32_t id : options_.objects) {
      POSTERN_TRY(add_object(id));
    }
    if (!tasks_.empty()) {
      return Ok{};
    }
    if (options_.legacy && !options_.legacy_all) {
      auto primary = image_.primary_partition();
      if (!primary) {
        return Failed{Failure::kNoRootPartition, 0, primary.error().what};
      }
      return add_object((*primary)->id);
    }
    if (options_.legacy) {
      for (const Descriptor& descriptor : image_.descriptors()) {
        if (descriptor.group != 0 && !is_signature(descriptor)) {
          tasks_.push_back({false, descriptor.group, &descriptor});
        }
      }
    } else {
      for (const std::uint32_t group : image_.groups()) {
        tasks_.push_back({true, group, nullptr});
      }
    }
    return tasks_.empty()
               ? Step<>(Failed{Failure::kNoGroups, 0, "the image has no groups of objects"})
               : Step<>(Ok{});
  }

  Step<> add_group(std::uint32_t group) {
    if (group == 0) {
      return Failed{Failure::kInvalidNumber, 0, "0 is not a group"};
    }
    if (image_.group(group).empty()) {
      return Failed{Failure::kGroupNotFound, group, "there is no group " + std::to_string(group)};
    }
    tasks_.push_back({true, group, nullptr});
    return Ok{};
  }

  Step<> add_object(std::uint32_t id) {
    if (id == 0) {
      return Failed{Failure::kInvalidNumber, 0, "0 is not an object"};
    }
    const Descriptor* object = find(id);
    if (object == nullptr) {
      return Failed{Failure::kObjectNotFound, id, "there is no " + object_name(id)};
    }
    if (!options_.legacy && object->group == 0) {
      return Failed{Failure::kGroupNotFound, id, object_name(id) + " is in no group"};
    }
    tasks_.push_back({false, object->group, object});
    return Ok{};
  }

  Step<> no_ungrouped_objects() const {
    for (const Descriptor& descriptor : image_.descriptors()) {
      if (descriptor.group == 0 && !is_signature(descriptor)) {
        return Failed{Failure::kUngroupedObject, descriptor.id,
                      object_name(descriptor.id) + " is in no group, so no signature can cover it",
                      "put it in a group, or delete it, and sign again"};
      }
    }
    return Ok{};
  }

  const Descriptor* find(std::uint32_t id) const {
    const auto& all = image_.descriptors();
    const auto hit =
        std::find_if(all.begin(), all.end(), [&](const Descriptor& d) { return d.id == id; });
    return hit == all.end() ? nullptr : &*hit;
  }

  Step<Candidate> load(const Descriptor& descriptor) const {
    auto data = sif::read_object(bytes_, image_, descriptor, kMaxClearSignedBytes);
    if (!data) {
      return Failed{Failure::kUnreadable, descriptor.id, data.error().what};
    }
    Candidate out{.descriptor = &descriptor};
    const auto unknown = [&](const std::string& why) {
      out.form_error = {Failure::kUnknownForm, descriptor.id,
                        "signature " + object_name(descriptor.id) + ": unknown form: " + why};
    };
    if (looks_like_dsse(*data)) {
      if (auto envelope = parse_envelope(*data)) {
        out.envelope = *std::move(envelope);
      } else {
        unknown(envelope.error().what);
      }
    } else if (looks_clear_signed(*data)) {
      if (auto clear = parse_clear_signed(*data)) {
        out.clear = *std::move(clear);
      } else {
        unknown(clear.error().what);
      }
    } else {
      unknown("neither an OpenPGP clear-signed message nor a DSSE envelope");
    }
    return out;
  }

  // The task's signatures in table order.
  Step<std::vector<Candidate>> collect(const Task& task) {
    std::vector<Candidate> out;
    for (const Descriptor& descriptor : image_.descriptors()) {
      if (!is_signature(descriptor)) {
        continue;
      }
      const bool by_object = options_.legacy && !task.whole_group;
      const bool linked = by_object
                              ? !descriptor.link_is_group && descriptor.link == task.object->id
                              : descriptor.link_is_group && descriptor.link == task.group;
      if (!linked) {
        continue;
      }
      if (++signatures_read_ > kMaxSignatures) {
        return Failed{Failure::kTooManySignatures, descriptor.id,
                      "more than " + std::to_string(kMaxSignatures) + " signatures"};
      }
      POSTERN_TRY_ASSIGN(Candidate candidate, load(descriptor));
      if (by_object || candidate.legacy() == options_.legacy) {
        out.push_back(std::move(candidate));
      }
    }
    if (out.empty()) {
      const std::string subject =
          task.whole_group ? "group " + std::to_string(task.group) : object_name(task.object->id);
      return Failed{Failure::kNoSignature, task.whole_group ? task.group : task.object->id,
                    subject + " is not signed",
                    options_.legacy ? ""
                                    : "sign it with 'postern sign'; images signed by Singularity "
                                      "before 3.6 need --legacy-insecure"};
    }
    return out;
  }

  Step<> run_task(const Task& task) {
    POSTERN_TRY_ASSIGN(const std::vector<Candidate> candidates, collect(task));
    std::set<std::string> valid;
    std::set<std::string> claimed;
    for (const Candidate& candidate : candidates) {
      SignatureReport entry;
      entry.id = candidate.descriptor->id;
      entry.group = options_.legacy && !task.whole_group ? 0 : task.group;
      entry.form = candidate.envelope ? Form::kDsse : Form::kOpenPgp;
      entry.claimed = claim_of(*candidate.descriptor);
      if (!entry.claimed.empty()) {
        claimed.insert(entry.claimed);
      }
      Step<> held = check_signature(task, candidate, entry);
      if (held) {
        entry.valid = true;
        valid.insert(entry.identities.begin(), entry.identities.end());
      } else if (held.error().code == Failure::kNotValid && options_.forgive_invalid) {
        entry.why = held.error().what;
        if (!entry.claimed.empty()) {
          report_.unvalidated.push_back(entry.claimed);
        }
      } else {
        entry.why = held.error().what;
        report_.signatures.push_back(std::move(entry));
        return held;
      }
      report_.signatures.push_back(std::move(entry));
    }
    merge(valid, claimed);
    return Ok{};
  }

  static std::string claim_of(const Descriptor& descriptor) {
    const sif::SignatureInfo* info = descriptor.signature();
    if (info == nullptr || std::all_of(info->fingerprint.begin(), info->fingerprint.end(),
                                       [](std::uint8_t byte) { return byte == 0; })) {
      return {};
    }
    return "pgp:" + text::to_hex(info->fingerprint);
  }

  void merge(const std::set<std::string>& valid, const std::set<std::string>& claimed) {
    const auto intersect = [&](std::vector<std::string>& all, const std::set<std::string>& with) {
      if (tasks_merged_ == 0) {
        all.assign(with.begin(), with.end());
      } else {
        std::erase_if(all, [&](const std::string& item) { return !with.contains(item); });
      }
    };
    intersect(report_.valid_all, valid);
    intersect(report_.claimed_all, claimed);
    for (const std::string& item : claimed) {
      if (std::find(report_.claimed_any.begin(), report_.claimed_any.end(), item) ==
          report_.claimed_any.end()) {
        report_.claimed_any.push_back(item);
      }
    }
    ++tasks_merged_;
  }

  Failed not_valid(const Candidate& candidate, const std::string& why) const {
    return {Failure::kNotValid, candidate.descriptor->id,
            "signature " + object_name(candidate.descriptor->id) + " is not valid: " + why};
  }

  Step<> check_signature(const Task& task, const Candidate& candidate, SignatureReport& entry) {
    POSTERN_TRY_ASSIGN(const std::string text, authenticate(candidate, entry));
    if (options_.legacy) {
      return check_legacy(task, candidate, text, entry);
    }
    auto metadata = parse_metadata(text);
    if (!metadata) {
      return not_valid(candidate, metadata.error().what);
    }
    POSTERN_TRY(check_fingerprint(candidate, entry));
    return check_metadata(task, candidate, *metadata, entry);
  }

  // The text that a key of the material signed.
  Step<std::string> authenticate(const Candidate& candidate, SignatureReport& entry) {
    const std::uint32_t id = candidate.descriptor->id;
    if (!candidate.clear && !candidate.envelope) {
      return candidate.form_error;
    }
    if (candidate.envelope && material_.keys.empty()) {
      return Failed{Failure::kNoPemMaterial, id,
                    "signature " + object_name(id) +
                        " was made with a PEM key, and no public key or certificate is given",
                    "give one with --key or --certificate"};
    }
    if (candidate.clear && material_.rings.empty()) {
      return Failed{
          Failure::kNoPgpMaterial, id,
          "signature " + object_name(id) + " is an OpenPGP signature, and there is no keyring"};
    }
    if (!options_.legacy) {
      POSTERN_TRY(known_hash_type(candidate));
    }
    return candidate.envelope ? authenticate_dsse(candidate, entry)
                              : authenticate_pgp(candidate, entry);
  }

  Step<> known_hash_type(const Candidate& candidate) const {
    const sif::SignatureInfo* info = candidate.descriptor->signature();
    const auto number = info != nullptr ? static_cast<int>(info->hash) : 0;
    if (number < 1 || number > 5) {
      return Failed{Failure::kHashType, candidate.descriptor->id,
                    "signature " + object_name(candidate.descriptor->id) +
                        " has the unknown hash type " + std::to_string(number)};
    }
    return Ok{};
  }

  Step<std::string> authenticate_dsse(const Candidate& candidate, SignatureReport& entry) {
    const PublicKey* key = find_signer(*candidate.envelope, material_.keys);
    if (key == nullptr) {
      return not_valid(candidate, "none of the given keys made it");
    }
    entry.identities = key->identities();
    entry.fingerprint = key->ssh_id();
    entry.name = key->name();
    return candidate.envelope->payload;
  }

  Step<std::string> authenticate_pgp(const Candidate& candidate, SignatureReport& entry) {
    for (const std::unique_ptr<PgpRing>& ring : material_.rings) {
      POSTERN_TRY_ASSIGN(const bool found, ask_ring(*ring, candidate, entry));
      if (found) {
        return candidate.clear->text;
      }
    }
    if (material_.fetch) {
      const auto packet = parse_signature_packet(*candidate.clear);
      const auto ring = packet ? material_.fetch(packet->issuer) : nullptr;
      if (ring != nullptr) {
        POSTERN_TRY_ASSIGN(const bool found, ask_ring(*ring, candidate, entry));
        if (found) {
          return candidate.clear->text;
        }
      }
    }
    return not_valid(candidate, "unknown signer");
  }

  // False: the ring does not have the key.
  Step<bool> ask_ring(const PgpRing& ring,
                      const Candidate& candidate,
                      SignatureReport& entry) const {
    auto check = ring.check(*candidate.clear);
    if (!check) {
      return Failed{Failure::kEngine, 0, check.error().what, check.error().cure};
    }
    if (check->result == PgpCheck::Result::kUnknownKey) {
      return false;
    }
    if (check->result == PgpCheck::Result::kBad) {
      return not_valid(candidate, check->why);
    }
    entry.fingerprint = check->signer.fingerprint;
    entry.identities = {"pgp:" + check->signer.fingerprint};
    entry.name = check->signer.name;
    entry.origin = check->signer.origin;
    return true;
  }

  // People and execution control lists read the signer from the descriptor: it must not lie.
  Step<> check_fingerprint(const Candidate& candidate, const SignatureReport& entry) const {
    if (candidate.envelope ||
        (!entry.identities.empty() && entry.claimed == entry.identities.front())) {
      return Ok{};
    }
    return Failed{Failure::kFingerprint, candidate.descriptor->id,
                  "signature " + object_name(candidate.descriptor->id) +
                      " was made by another key than its descriptor says"};
  }

  Step<> check_legacy(const Task& task,
                      const Candidate& candidate,
                      const std::string& text,
                      SignatureReport& entry) {
    POSTERN_TRY(check_fingerprint(candidate, entry));
    POSTERN_TRY(known_hash_type(candidate));
    std::optional<Algorithm> algorithm;
    switch (candidate.descriptor->signature()->hash) {
      case sif::HashType::kSha256:
        algorithm = Algorithm::kSha256;
        break;
      case sif::HashType::kSha384:
        algorithm = Algorithm::kSha384;
        break;
      case sif::HashType::kSha512:
        algorithm = Algorithm::kSha512;
        break;
      case sif::HashType::kBlake2s256:
      case sif::HashType::kBlake2b256:
        break;
    }
    if (!algorithm) {
      return Failed{Failure::kHashType, candidate.descriptor->id,
                    "signature " + object_name(candidate.descriptor->id) +
                        " uses BLAKE2, which is not supported"};
    }
    std::string_view hex = text;
    if (hex.starts_with(kLegacyPrefix)) {
      hex.remove_prefix(kLegacyPrefix.size());
    }
    if (hex.ends_with('\n')) {
      hex.remove_suffix(1);
    }
    auto wanted = parse_hex_digest(*algorithm, hex);
    if (!wanted) {
      return not_valid(candidate, wanted.error().what);
    }
    const std::vector<const Descriptor*> objects =
        task.whole_group ? image_.group(task.group) : std::vector<const Descriptor*>{task.object};
    POSTERN_TRY(compare_later(objects, *wanted));
    for (const Descriptor* object : objects) {
      entry.objects.push_back(object->id);
    }
    return Ok{};
  }

  Step<> check_metadata(const Task& task,
                        const Candidate& candidate,
                        const Metadata& metadata,
                        SignatureReport& entry) {
    const std::vector<const Descriptor*> members = image_.group(task.group);
    std::uint32_t lowest = UINT32_MAX;
    for (const Descriptor* member : members) {
      lowest = std::min(lowest, member->id);
    }
    std::map<std::uint32_t, const ObjectDigests*> listed;  // by id
    for (const ObjectDigests& object : metadata.objects) {
      listed.emplace(lowest + object.relative_id, &object);  // wraps around, as other readers do
    }
    std::vector<const Descriptor*> wanted = members;
    if (!task.whole_group) {
      wanted = {task.object};
    }
    std::sort(wanted.begin(), wanted.end(),
              [](const Descriptor* a, const Descriptor* b) { return a->id < b->id; });
    POSTERN_TRY(same_objects(task, candidate, wanted, listed));
    if (header_digest(metadata.header.algorithm, image_.raw_header()) != metadata.header) {
      return Failed{Failure::kHeader, 0,
                    "the header (launch script, version or image id) differs from what was signed"};
    }
    for (const Descriptor* object : wanted) {
      POSTERN_TRY(check_object(*object, *listed.at(object->id)));
      entry.objects.push_back(object->id);
    }
    return Ok{};
  }

  Step<> same_objects(const Task& task,
                      const Candidate& candidate,
                      const std::vector<const Descriptor*>& wanted,
                      const std::map<std::uint32_t, const ObjectDigests*>& listed) const {
    const std::string by = " by signature " + object_name(candidate.descriptor->id);
    for (const Descriptor* object : wanted) {
      if (!listed.contains(object->id)) {
        return Failed{Failure::kNotSigned, object->id,
                      object_name(object->id) + " is not signed" + by,
                      "it was added after signing, or only a part of the group was signed"};
      }
    }
    if (!task.whole_group) {
      return Ok{};
    }
    for (const auto& [id, digests] : listed) {
      const Descriptor* object = find(id);
      if (object == nullptr || object->group != task.group) {
        return Failed{Failure::kSignedMissing, id,
                      object_name(id) + ", which is signed" + by + ", is missing",
                      "it was deleted or moved to another group after signing"};
      }
    }
    return Ok{};
  }

  Step<> check_object(const Descriptor& object, const ObjectDigests& digests) {
    // Relative to the lowest id among the descriptors whose stored group field is the same: other
    // writers compute it so, and the metadata's own ids from the masked group.
    std::uint32_t lowest = object.id;
    for (const Descriptor& other : image_.descriptors()) {
      if (other.raw_group == object.raw_group) {
        lowest = std::min(lowest, other.id);
      }
    }
    if (descriptor_digest(digests.descriptor.algorithm, object.raw, object.id - lowest) !=
        digests.descriptor) {
      return Failed{Failure::kDescriptor, object.id,
                    object_name(object.id) +
                        ": its descriptor (type, link, size, time, owner, name or metadata) "
                        "differs from what was signed"};
    }
    return compare_later({&object}, digests.object);
  }

  Step<> compare_later(const std::vector<const Descriptor*>& objects, const Digest& wanted) {
    if (objects.size() == 1 && std::find(options_.skip_data.begin(), options_.skip_data.end(),
                                         objects[0]->id) != options_.skip_data.end()) {
      return Ok{};
    }
    HashJob job{.algorithm = wanted.algorithm, .runs = {}};
    for (const Descriptor* object : objects) {
      auto extent = image_.extent_of(*object);
      if (!extent) {
        return Failed{Failure::kUnreadable, object->id, extent.error().what};
      }
      job.runs.push_back(*extent);
    }
    // Several signers name the same object: it is hashed once.
    const auto same = [&](const HashJob& other) {
      return other.algorithm == job.algorithm && other.runs == job.runs;
    };
    auto known = std::find_if(jobs_.begin(), jobs_.end(), same);
    if (known == jobs_.end()) {
      jobs_.push_back(std::move(job));
      known = std::prev(jobs_.end());
    }
    comparisons_.push_back(
        {static_cast<std::size_t>(known - jobs_.begin()), wanted, objects[0]->id});
    return Ok{};
  }

  Step<> compare_data() {
    const std::uint64_t total = bytes_of(jobs_);
    if (options_.max_hashed_bytes != 0 && total > options_.max_hashed_bytes) {
      return Failed{Failure::kTooLarge, 0,
                    std::to_string(total) + " bytes would have to be hashed at each start",
                    "delete its signatures (postern sif del), then sign it, which seals it: "
                    "postern sign"};
    }
    if (options_.announce) {
      options_.announce(total);
    }
    auto digests = hash_file(bytes_, jobs_, options_.progress, options_.threads);
    if (!digests) {
      return Failed{Failure::kUnreadable, 0, digests.error().what};
    }
    std::sort(comparisons_.begin(), comparisons_.end(),
              [](const Comparison& a, const Comparison& b) { return a.object < b.object; });
    for (const Comparison& comparison : comparisons_) {
      if ((*digests)[comparison.job] != comparison.wanted) {
        return Failed{Failure::kObject, comparison.object,
                      object_name(comparison.object) + ": its data differs from what was signed"};
      }
    }
    return Ok{};
  }

  const Image& image_;
  Snapshot& bytes_;
  const VerifyOptions& options_;
  const KeyMaterial& material_;
  VerifyReport report_;
  std::vector<Task> tasks_;
  std::size_t tasks_merged_ = 0;
  std::size_t signatures_read_ = 0;
  std::vector<HashJob> jobs_;
  std::vector<Comparison> comparisons_;
};

}  // namespace

VerifyReport verify(const sif::Image& image,
                    Snapshot& bytes,
                    const VerifyOptions& options,
                    const KeyMaterial& material) {
  return Verification(image, bytes, options, material).run();
}

Outcome<std::string> metadata_of(const sif::Image& image,
                                 Snapshot& bytes,
                                 std::uint32_t group,
                                 const std::vector<std::uint32_t>& objects,
                                 const HashProgress& progress) {
  std::uint32_t lowest = UINT32_MAX;
  for (const Descriptor* member : image.group(group)) {
    lowest = std::min(lowest, member->id);
  }
  Metadata metadata;
  metadata.header = header_digest(Algorithm::kSha256, image.raw_header());
  std::vector<HashJob> jobs;
  for (const std::uint32_t id : objects) {
    POSTERN_TRY_ASSIGN(const Descriptor* object, image.object(id));
    if (object->group != group) {
      return Problem{object_name(id) + " is not in group " + std::to_string(group)};
    }
    if (object->raw_group != (group | sif::kGroupMask)) {
      return Problem{
          object_name(id) +
          ": its group number is stored in an unusual form, which signatures cannot cover"};
    }
    POSTERN_TRY_ASSIGN(const sif::Extent extent, image.extent_of(*object));
    jobs.push_back({Algorithm::kSha256, {extent}});
    metadata.objects.push_back(
        {id - lowest, descriptor_digest(Algorithm::kSha256, object->raw, id - lowest), Digest{}});
  }
  POSTERN_TRY_ASSIGN(const std::vector<Digest> digests, hash_file(bytes, jobs, progress));
  for (std::size_t i = 0; i < digests.size(); ++i) {
    metadata.objects[i].object = digests[i];
  }
  return write_metadata(metadata);
}

}  // namespace postern::signature
