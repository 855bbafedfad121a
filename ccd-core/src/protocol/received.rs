//! How a message of another node reaches the part that handles it.

use super::Node;
use super::message::Message;
use crate::ids::NodeId;

impl Node {
    pub(super) fn on_message(&mut self, from: NodeId, message: Message) {
        if from == self.me() || !self.settings.nodes.contains(from) {
            return;
        }
        if self.keeps_quiet() {
            return;
        }
        if !self.believes(from, &message) {
            return;
        }
        if self.number_is_anothers() {
            self.hear_without_number(from, message);
            return;
        }
        self.heard(from);
        self.note_unpacked(from, &message);
        match message {
            Message::Heartbeat(state) => self.on_heartbeat(from, state),
            Message::HeartbeatAck {
                incarnation,
                echo,
                epoch,
                lease,
            } => {
                self.on_heartbeat_ack(from, incarnation, echo, epoch, lease);
            }
            Message::ReportAsk => self.on_report_ask(from),
            Message::Report {
                run,
                number,
                problems,
            } => self.on_report(from, run, number, problems),
            Message::Decided(configuration) => {
                self.hear_of(from, configuration);
            }
            Message::Prepare { instance, ballot } => self.on_prepare(from, instance, ballot),
            Message::Promise {
                instance,
                ballot,
                promise,
            } => {
                self.on_promise(from, instance, ballot, promise);
            }
            Message::Accept {
                instance,
                ballot,
                configuration,
            } => {
                self.on_accept(from, instance, ballot, configuration);
            }
            Message::Accepted { instance, ballot } => self.on_accepted(from, instance, ballot),
            Message::BallotRefused {
                instance,
                ballot,
                obstacle,
            } => {
                self.on_ballot_refused(from, instance, ballot, obstacle);
            }
            Message::Install { configuration } => self.on_install(from, configuration),
            Message::Installed { epoch } => self.on_installed(from, epoch),
            Message::Open { epoch } => self.on_open(epoch),
            Message::Fetch { have, image, base } => self.on_fetch(from, have, image, base),
            Message::Installing { epoch } => self.on_installing(from, epoch),
            Message::Tail { have, records } => self.on_tail(from, have, records),
            Message::ImageChunk {
                position,
                total,
                offset,
                bytes,
                replaces,
            } => {
                self.on_image_chunk(from, position, total, offset, bytes, replaces);
            }
            Message::UpdateReq { epoch, record } => self.on_update_req(from, epoch, record),
            Message::UpdateAck { epoch, position } => self.on_update_ack(from, epoch, position),
            Message::UpdateNack { epoch, position, why } => {
                self.on_update_nack(from, epoch, position, why);
            }
            Message::Unfreeze {
                epoch,
                position,
                commit,
            } => {
                self.on_unfreeze(from, epoch, position, commit);
            }
            Message::UnfreezeAsk { epoch, position } => self.on_unfreeze_ask(from, epoch, position),
            Message::UnfreezeAck { epoch, position } => self.on_unfreeze_ack(from, epoch, position),
            Message::FreezeReq(freeze) => self.on_freeze_req(from, freeze),
            Message::FreezeAck { id, result } => self.on_freeze_ack(from, id, result),
            Message::FreezeOver { id } => self.on_freeze_over(from, id),
            Message::Forward {
                epoch,
                update,
                timeout,
            } => self.on_forward(from, epoch, update, timeout),
            Message::ForwardReply {
                epoch,
                request,
                outcome,
            } => self.on_forward_reply(epoch, request, outcome),
            Message::Designate { epoch, node } => self.on_designate(epoch, node),
            Message::DrillReq { serial, role } => self.on_drill_req(from, serial, role),
            Message::DrillAck { serial, role, proof } => self.on_proof(serial, role, proof),
            Message::VerifyReq { serial, position } => self.on_verify_req(from, serial, position),
            Message::VerifyAck { serial, copy } => self.on_verify_ack(from, serial, copy),
            Message::ChangeNodes {
                request,
                edit,
                timeout,
            } => self.on_change_nodes(from, request, edit, timeout),
            Message::NodesChanged { request, result } => self.on_nodes_changed(request, result),
            Message::StageInit { digest, text } => self.on_stage_init(from, digest, &text),
            Message::InitStaged { digest, refused } => self.on_init_staged(from, digest, refused),
            Message::InitAsk { digest } => self.on_init_ask(from, digest),
            Message::Invalidate { epoch, why } => self.on_invalidate(from, epoch, &why),
            Message::Offer { parcel, total } => self.on_offer(from, parcel, total),
            Message::ParcelFetch { parcel, offset } => self.on_parcel_fetch(from, parcel, offset),
            Message::ParcelPiece {
                parcel,
                offset,
                bytes,
            } => self.on_parcel_piece(from, parcel, offset, bytes),
        }
    }
}
