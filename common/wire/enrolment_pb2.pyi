from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class JoinRequest(_message.Message):
    __slots__ = ("protocol", "token", "request", "link_key", "seal")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    LINK_KEY_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    token: str
    request: str
    link_key: str
    seal: str
    def __init__(self, protocol: _Optional[int] = ..., token: _Optional[str] = ..., request: _Optional[str] = ..., link_key: _Optional[str] = ..., seal: _Optional[str] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("plant", "certificate", "authority", "federation", "fleet_address", "task")
    PLANT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    FLEET_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    plant: str
    certificate: str
    authority: str
    federation: str
    fleet_address: str
    task: str
    def __init__(self, plant: _Optional[str] = ..., certificate: _Optional[str] = ..., authority: _Optional[str] = ..., federation: _Optional[str] = ..., fleet_address: _Optional[str] = ..., task: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("protocol", "request")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    request: str
    def __init__(self, protocol: _Optional[int] = ..., request: _Optional[str] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate", "authority")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    certificate: str
    authority: str
    def __init__(self, certificate: _Optional[str] = ..., authority: _Optional[str] = ...) -> None: ...
