//! stub
use std::sync::Arc; use crate::hub::api::*; use crate::base::tick::Tick; use crate::protocol::ErrorCode; use crate::hub::settings::ChannelOptions;
#[derive(Debug)] pub struct Stream; pub struct StreamLimits; pub struct Appended{pub position: Position, pub publication: Option<Arc<StoredPublication>>}
impl StreamLimits{ pub fn of(_:&ChannelOptions)->Self{Self} }
impl Stream { pub fn new(_:&str)->Self{Self} pub fn append(&mut self,_:ApiPublish,_:Option<Member>,_:&StreamLimits,_:bool,_:Tick)->Appended{loop{}}
 pub fn recover(&mut self,_:&Position,_:u32,_:bool)->Option<Vec<Arc<StoredPublication>>>{None} pub fn read(&mut self,_:i32,_:u32,_:Option<&Position>,_:bool)->Result<Vec<Arc<StoredPublication>>,ErrorCode>{loop{}}
 pub fn expire(&mut self,_:&StreamLimits,_:Tick)->bool{false} pub fn position(&self)->Position{loop{}} pub fn remove(&mut self){} pub fn memory_bytes(&self)->usize{0} }
