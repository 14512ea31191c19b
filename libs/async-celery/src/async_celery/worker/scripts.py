"""The Lua of the result backend: what Redis does in one step, so that no crash comes between two halves of it.

How it works: Redis runs a script as a whole or not at all, so a result and the count of it for its chord are one
thing. Each step can be done again by whoever does not know whether it was done: the first terminal state of a
task stays, a chord counts each of its members once, and a chord that was completed by one member is completed by
the same one again until it is known that its body was sent.

The keys of a chord and what is in them are those of Celery 5.7 (`CHORD_PART_RETURN_LUA` in its Redis backend),
but for the claim, which holds the member that completed the chord instead of a random token: a member that comes
back after its process died goes on where it was. The first write of a script is one that Redis refuses when it is
full: after it has begun to write, Redis lets a script end.

What belongs here: the text of scripts.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1

SENT = b"sent"
"""A chord's answer: its body was sent, or failed."""
SIZE_UNKNOWN = b"size unknown"
"""A chord's answer: counted, but nobody has said (or it has expired) how many there will be."""
COMPLETE = b"complete"
"""A chord's answer: this member completes it. The saved header's tree (b"" for none) and all parts follow."""


@dataclass(frozen=True)
class Script:
    """A script and the name that Redis calls it by."""

    text: str

    @cached_property
    def sha(self) -> str:
        """What EVALSHA takes."""
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# The state stands first in the JSON that Celery and this package write, and the results are not compressed. To
# decode the JSON here would cost more than all the rest.
_IS_FINAL = """
local function is_final(key)
    local state = string.match(redis.call('GETRANGE', key, 0, 31), '^{"status": ?"(%u+)"')
    return state == 'SUCCESS' or state == 'FAILURE' or state == 'REVOKED'
end
"""

_STORE = """
local function store(key, payload, expires)
    if tonumber(expires) > 0 then
        redis.call('SET', key, payload, 'EX', expires)
    else
        redis.call('SET', key, payload)
    end
    redis.call('PUBLISH', key, payload)
end
"""

_STAMP = """
local function stamped(payload)
    local now = redis.call('TIME')
    return string.sub(payload, 1, -2) .. ', "stored": ' .. now[1] .. string.format('.%06d}', now[2])
end
"""

_COUNT = """
local function count(keys, args)
    local results, extra, size_key, members, group, claim = unpack(keys)
    local member, part, score, expires, group_expires, claim_expires = unpack(args)
    local ordered = score ~= ''
    local claimant = redis.call('GET', claim)
    if claimant == 'done' then
        return {'sent'}
    end
    if redis.call('SISMEMBER', members, member) == 0 then
        if ordered then
            redis.call('ZADD', results, score, part)
        else
            redis.call('RPUSH', results, part)
        end
        redis.call('SADD', members, member)
    end
    if tonumber(expires) > 0 then
        for _, key in ipairs({results, extra, size_key, members}) do
            redis.call('EXPIRE', key, expires)
        end
        if tonumber(group_expires) > 0 then
            redis.call('EXPIRE', group, group_expires)
        end
    end
    local size = redis.call('GET', size_key)
    if not size then
        return {'size unknown'}
    end
    local counted = redis.call(ordered and 'ZCARD' or 'LLEN', results)
    if counted ~= tonumber(size) + tonumber(redis.call('GET', extra) or 0) then
        return {'counted'}
    end
    if claimant and claimant ~= member then
        return {'counted'}
    end
    redis.call('SET', claim, member, 'EX', claim_expires)
    local parts = redis.call(ordered and 'ZRANGE' or 'LRANGE', results, 0, -1)
    return {'complete', redis.call('GET', group) or '', parts}
end
"""

FINISH = Script(
    _IS_FINAL
    + _STORE
    + _STAMP
    + _COUNT
    + """
if is_final(KEYS[1]) then
    return {0}
end
store(KEYS[1], stamped(ARGV[1]), ARGV[2])
local fields = tonumber(ARGV[4])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 5, 4 + fields))
redis.call('DEL', KEYS[2])
if #KEYS > 3 then
    return {1, count({unpack(KEYS, 4)}, {unpack(ARGV, 5 + fields)})}
end
return {1}
"""
)
"""Store a task's terminal state, unless it has one, and in it when that was, by the clock of Redis.

KEYS: result, attempts, history; of a chord's member also COUNT's.
ARGV: payload, which is a JSON object, its expiry in s (0 for never), length of the history, how many of the next
are the history's entry, the entry; of a chord's member also COUNT's.
Returns {1}, {1, COUNT's answer} or {0}: it has one, and nothing was done.
"""

REPORT = Script(
    _IS_FINAL
    + _STORE
    + """
if is_final(KEYS[1]) then
    return 0
end
if ARGV[3] ~= '' and string.find(redis.call('GET', KEYS[1]) or '', ARGV[3], 1, true) then
    return 0
end
store(KEYS[1], ARGV[1], ARGV[2])
return 1
"""
)
"""Store a state on the way, unless the task has a terminal one.

KEYS: result. ARGV: payload, its expiry in s, a text ('' for none): what is stored and has it in it stays.
"""

COUNT = Script(_COUNT + "return count(KEYS, ARGV)")
"""Count a member for its chord, once, however often it is called.

KEYS: .j results, .t members added later, .s size, .d members counted, the saved header, .c claim.
ARGV: member, part, its place ('' for chords whose results come in the order of their ends), expiry of the chord
and of its saved header in s (0 for never), expiry of the claim in s.
Returns {'sent'}, {'size unknown'}, {'counted'} or {'complete', the saved header, all parts}.
"""
